#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/text/regex.h"

#include <pcre2.h>

#include "runtime/base/log.h"
#include "runtime/text/regex_syntax.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

constexpr std::size_t kMaxPatternBytes = 64 << 10;
constexpr std::uint32_t kMaxNesting = 250;
// Backtracking steps and memory of one match. The published patterns walk a run of white space at most twice, and
// a request body has at most a few million characters.
constexpr std::uint32_t kMatchSteps = 50'000'000;
constexpr std::uint32_t kHeap_KiB = 64 << 10;
constexpr std::size_t kJitStackMinBytes = 32 << 10;
constexpr std::size_t kJitStackMaxBytes = 1 << 20;

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};

using CodeHandle = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

std::string describe(int error) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(error, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

// What a match needs besides the pattern; one per thread, made at its first match.
struct Scratch {
  MatchContext context{pcre2_match_context_create(nullptr)};
  MatchData data{pcre2_match_data_create(1, nullptr)};  // only the bounds of the whole match are asked for
  JitStack stack{pcre2_jit_stack_create(kJitStackMinBytes, kJitStackMaxBytes, nullptr)};

  Scratch() {
    pcre2_set_match_limit(context.get(), kMatchSteps);
    pcre2_set_heap_limit(context.get(), kHeap_KiB);
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

struct Regex::Code {
  CodeHandle handle;
  std::string shown;  // the pattern, for messages
};

Regex::Regex(std::unique_ptr<const Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return unsupported("the pattern has more than " + std::to_string(kMaxPatternBytes) + " bytes");
  }
  TROUPE_ASSIGN_OR_RETURN(const std::string pcre, to_pcre_syntax(pattern));
  return compile_pcre(pcre, pattern);
}

Result<Regex> Regex::compile_pcre(std::string_view pcre, std::string_view shown) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), kMaxNesting);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_unique<Code>();
  code->shown = printable(shown);
  code->handle.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre.data()), pcre.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                   context.get()));
  if (!code->handle) {
    return unsupported("the pattern " + code->shown + " cannot be compiled: " + describe(error) + " (at byte " +
                       std::to_string(offset) + " of its PCRE2 form)");
  }
  // Where the JIT compiler is missing, or gives up on this pattern, the interpreter does the same more slowly.
  static_cast<void>(pcre2_jit_compile(code->handle.get(), PCRE2_JIT_COMPLETE));
  return Regex(std::move(code));
}

Result<std::vector<Span>> Regex::find_all(std::string_view text) const {
  thread_local const Scratch scratch;
  std::vector<Span> found;
  std::size_t from = 0;
  bool any = false;
  std::size_t last_end = 0;
  while (from <= text.size()) {
    const auto match = [&](std::uint32_t options) {
      // The text was checked once; checking it at each match would make the whole quadratic.
      return pcre2_match(code_->handle.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         options | PCRE2_NO_UTF_CHECK, scratch.data.get(), scratch.context.get());
    };
    int status = match(0);
    if (status == PCRE2_ERROR_JIT_STACKLIMIT) status = match(PCRE2_NO_JIT);
    if (status == PCRE2_ERROR_NOMATCH) break;
    if (status < 0) {
      return resource_exhausted("matching the pattern " + code_->shown + " was given up: " + describe(status));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch.data.get());
    const Span span{bounds[0], bounds[1]};
    if (span.end < span.begin) return unsupported("the pattern " + code_->shown + " uses \\K in a lookaround");
    const bool empty_after_match = span.size() == 0 && any && span.begin == last_end;
    if (!empty_after_match) {
      found.push_back(span);
      any = true;
      last_end = span.end;
    }
    from = span.end;
    if (span.size() == 0) {
      if (from == text.size()) break;
      from += character_at(text, from).bytes;
    }
  }
  return found;
}

}  // namespace troupe::text
