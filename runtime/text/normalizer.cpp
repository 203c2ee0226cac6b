#include "runtime/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "runtime/text/byte_level.h"
#include "runtime/text/pattern.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

// Applies `append(code_point, out)` to each character.
template <class Append>
void rewrite_characters(std::string& text, Append append) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character character = character_at(text, at);
    append(character.code_point, out);
    at += character.bytes;
  }
  text = std::move(out);
}

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<const Normalizer>> steps) : steps_(std::move(steps)) {}

  Result<void> apply(NormalizedText& text) const override {
    for (const auto& step : steps_) TROUPE_RETURN_IF_ERROR(step->apply(text));
    return {};
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

// The Unicode normalisation forms (UAX 15). utf8proc decomposes and composes; the canonical ordering between the two
// is done here because utf8proc's takes quadratic time on long runs of combining marks.
class UnicodeForm final : public Normalizer {
 public:
  UnicodeForm(bool compatibility, bool compose) : compatibility_(compatibility), compose_(compose) {}

  Result<void> apply(NormalizedText& normalized) const override {
    std::string& text = normalized.text;
    if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return {};
    std::vector<utf8proc_int32_t> characters = decompose(text);
    order(characters);
    auto count = static_cast<utf8proc_ssize_t>(characters.size());
    if (compose_) {
      count = utf8proc_normalize_utf32(characters.data(), count,
                                       static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    }
    text.clear();
    for (utf8proc_ssize_t i = 0; i < count; ++i) append_utf8(text, static_cast<char32_t>(characters[i]));
    return {};
  }

 private:
  std::vector<utf8proc_int32_t> decompose(std::string_view text) const {
    const auto options =
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatibility_ ? UTF8PROC_COMPAT : 0));
    std::vector<utf8proc_int32_t> characters;
    characters.reserve(text.size());
    utf8proc_int32_t parts[32];  // the longest decomposition, of U+FDFA, has 18 characters
    for (std::size_t at = 0; at < text.size();) {
      const Character character = character_at(text, at);
      int boundary = 0;
      const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character.code_point), parts,
                                                 std::size(parts), options, &boundary);
      characters.insert(characters.end(), parts, parts + std::max<utf8proc_ssize_t>(count, 0));
      at += character.bytes;
    }
    return characters;
  }

  // Sorts each run of combining marks by combining class, keeping the order within a class.
  static void order(std::vector<utf8proc_int32_t>& characters) {
    const auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
    const auto combines = [&](utf8proc_int32_t c) { return combining_class(c) != 0; };
    for (auto run = std::find_if(characters.begin(), characters.end(), combines); run != characters.end();) {
      const auto end = std::find_if_not(run, characters.end(), combines);
      std::stable_sort(run, end, [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
      run = std::find_if(end, characters.end(), combines);
    }
  }

  bool compatibility_;
  bool compose_;
};

class Lowercase final : public Normalizer {
 public:
  Result<void> apply(NormalizedText& normalized) const override {
    rewrite_characters(normalized.text, [](char32_t c, std::string& out) {
      if (c == 0x130) {
        out += "i\xCC\x87";  // the only character whose lower case has two
      } else {
        append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
      }
    });
    return {};
  }
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}

  Result<void> apply(NormalizedText& normalized) const override {
    if (!normalized.text.empty()) normalized.text.insert(0, prefix_);
    return {};
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  Result<void> apply(NormalizedText& normalized) const override {
    TROUPE_ASSIGN_OR_RETURN(normalized.text, pattern_.replace_all(normalized.text, content_));
    return {};
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  Result<void> apply(NormalizedText& normalized) const override {
    const std::string& text = normalized.text;
    std::size_t begin = text.size();  // of what stays
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size();) {
      const Character character = character_at(text, at);
      if (!is_whitespace(character.code_point)) {
        begin = std::min(begin, at);
        end = at + character.bytes;
      }
      at += character.bytes;
    }
    if (!left_) begin = 0;
    if (!right_) end = text.size();
    if (begin > 0) normalized.at_start = false;
    normalized.text = begin < end ? text.substr(begin, end - begin) : std::string();
    return {};
  }

 private:
  bool left_;
  bool right_;
};

class StripAccents final : public Normalizer {
 public:
  Result<void> apply(NormalizedText& normalized) const override {
    if (!normalized.text.empty() && is_mark(character_at(normalized.text, 0).code_point)) normalized.at_start = false;
    rewrite_characters(normalized.text, [](char32_t c, std::string& out) {
      if (!is_mark(c)) append_utf8(out, c);
    });
    return {};
  }
};

class ByteLevel final : public Normalizer {
 public:
  Result<void> apply(NormalizedText& normalized) const override {
    normalized.text = to_byte_level(normalized.text);
    return {};
  }
};

using Parsed = Result<std::unique_ptr<const Normalizer>>;

template <class T, class... Arguments>
Parsed make(Arguments&&... arguments) {
  return std::unique_ptr<const Normalizer>(std::make_unique<T>(std::forward<Arguments>(arguments)...));
}

Parsed parse_sequence(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto list, node.at("normalizers"));
  TROUPE_ASSIGN_OR_RETURN(const auto elements, list.elements());
  std::vector<std::unique_ptr<const Normalizer>> steps;
  for (const JsonNode& element : elements) {
    TROUPE_ASSIGN_OR_RETURN(auto step, parse_normalizer(element));
    steps.push_back(std::move(step));
  }
  return make<Sequence>(std::move(steps));
}

Parsed parse_replace(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto pattern_node, node.at("pattern"));
  TROUPE_ASSIGN_OR_RETURN(auto pattern, Pattern::parse(pattern_node));
  TROUPE_ASSIGN_OR_RETURN(const auto content, node.at("content"));
  TROUPE_ASSIGN_OR_RETURN(const auto text, content.string());
  return make<Replace>(std::move(pattern), std::string(text));
}

}  // namespace

Parsed parse_normalizer(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto type_node, node.at("type"));
  TROUPE_ASSIGN_OR_RETURN(const auto type, type_node.string());
  if (type == "Sequence") return parse_sequence(node);
  if (type == "NFC") return make<UnicodeForm>(false, true);
  if (type == "NFD") return make<UnicodeForm>(false, false);
  if (type == "NFKC") return make<UnicodeForm>(true, true);
  if (type == "NFKD") return make<UnicodeForm>(true, false);
  if (type == "Lowercase") return make<Lowercase>();
  if (type == "StripAccents") return make<StripAccents>();
  if (type == "ByteLevel") return make<ByteLevel>();
  if (type == "Replace") return parse_replace(node);
  if (type == "Prepend") {
    TROUPE_ASSIGN_OR_RETURN(const auto prefix, node.at("prepend"));
    TROUPE_ASSIGN_OR_RETURN(const auto text, prefix.string());
    return make<Prepend>(std::string(text));
  }
  if (type == "Strip") {
    TROUPE_ASSIGN_OR_RETURN(const bool left, node.boolean_or("strip_left", true));
    TROUPE_ASSIGN_OR_RETURN(const bool right, node.boolean_or("strip_right", true));
    return make<Strip>(left, right);
  }
  return type_node.not_supported("the normaliser \"" + std::string(type) +
                                 "\" is not supported; the model can be served with token-id prompts");
}

}  // namespace troupe::text
