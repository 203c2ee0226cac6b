// Feeds arbitrary bytes as tokenizer.json and, behind the first zero byte, as a text for it.
// Whatever loads must encode and decode without breaking its promises.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/text/stream_decoder.h"
#include "runtime/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace troupe::text;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view file = input.substr(0, input.find('\0'));
  const std::string_view text = file.size() < size ? input.substr(file.size() + 1) : std::string_view();

  troupe::Limits limits;
  limits.tokenizer_entries = 4096;
  const auto tokenizer = Tokenizer::parse(file, "fuzz", limits);
  if (!tokenizer) return 0;
  const auto ids = (*tokenizer)->encode(text, true);
  if (!ids) return 0;
  StreamDecoder decoder(*tokenizer, false);
  std::string streamed;
  for (const std::uint32_t id : *ids) {
    if (id >= (*tokenizer)->vocab_size()) std::abort();
    streamed += decoder.push(id);
  }
  streamed += decoder.finish();
  if (streamed != (*tokenizer)->decode(*ids, false)) std::abort();
  return 0;
}
