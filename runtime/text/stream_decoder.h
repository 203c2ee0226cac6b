#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/text/tokenizer.h"

namespace troupe::text {

// The text of a growing token list, piece by piece: all pieces together are exactly what Tokenizer::decode says
// of the whole list, and no piece ends inside a UTF-8 character. One per stream; not thread-safe.
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  // Adds a token; returns the text that no later token can change any more (often none).
  std::string push(std::uint32_t token);

  // Ends the list; returns the rest, with bytes that form no character as U+FFFD.
  std::string finish();

 private:
  struct State;

  std::unique_ptr<State> state_;
};

}  // namespace troupe::text
