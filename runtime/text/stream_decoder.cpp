#include "runtime/text/stream_decoder.h"

#include "runtime/text/decoder.h"
#include "runtime/text/tokenizer_parts.h"

namespace troupe::text {

struct StreamDecoder::State {
  State(std::shared_ptr<const Tokenizer> shared, bool skip)
      : tokenizer(std::move(shared)), decoding(tokenizer->parts_->decoder), skip_special_tokens(skip) {}

  std::shared_ptr<const Tokenizer> tokenizer;
  Decoding decoding;
  bool skip_special_tokens;
};

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens)
    : state_(std::make_unique<State>(std::move(tokenizer), skip_special_tokens)) {}

StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(std::uint32_t token) {
  const std::string* spelling = state_->tokenizer->parts_->spelling(token, state_->skip_special_tokens);
  return spelling ? state_->decoding.push(*spelling) : std::string();
}

std::string StreamDecoder::finish() { return state_->decoding.finish(); }

}  // namespace troupe::text
