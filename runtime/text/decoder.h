#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/json_node.h"

namespace troupe::text {

// Receives a list of tokens as text. A token may come in several fragments of whole UTF-8 characters and ends with
// end_token(); the list ends with finish().
class TokenSink {
 public:
  virtual ~TokenSink() = default;

  virtual void text(std::string_view fragment) = 0;
  virtual void end_token() = 0;
  virtual void finish() = 0;
};

// One step of the `decoder` of tokenizer.json. Immutable, thread-safe.
class DecoderStep {
 public:
  virtual ~DecoderStep() = default;

  // A run of this step over one list of tokens, passing its output on as soon as it is certain. The step and `next`
  // must outlive it.
  virtual std::unique_ptr<TokenSink> open(TokenSink& next) const = 0;

  // Rewrites one token as the step would if it stood in the middle of a text.
  virtual void rewrite_token(std::string& token) const = 0;
};

// The whole decoder. Immutable, thread-safe.
class Decoder {
 public:
  // Without a decoder tokens are joined by spaces.
  Decoder();
  // Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace; kUnsupported for others.
  static Result<Decoder> parse(const JsonNode& node);

  // What one token stands for: its bytes, maybe a part of a UTF-8 character.
  std::string token_bytes(std::string token) const;

 private:
  friend class Decoding;

  std::vector<std::unique_ptr<const DecoderStep>> steps_;
};

// One list of tokens being decoded. The decoder must outlive it. Not thread-safe.
class Decoding {
 public:
  explicit Decoding(const Decoder& decoder);
  ~Decoding();
  Decoding(const Decoding&) = delete;
  Decoding& operator=(const Decoding&) = delete;

  // Both return the text that became certain; all of it is the text of the list.
  std::string push(std::string_view token);
  std::string finish();

 private:
  class Output;

  std::unique_ptr<Output> output_;
  std::vector<std::unique_ptr<TokenSink>> stages_;  // the last one is the first to receive a token
};

}  // namespace troupe::text
