#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::text {

class JsonDocument;
struct Vocabulary;

// A byte-level or SentencePiece-style BPE tokenizer as a Hugging Face tokenizer.json or a GGUF file describes it.
// Immutable once loaded; every method may be called from any thread at the same time.
class Tokenizer {
 public:
  // Reads tokenizer.json of a model directory, and tokenizer_config.json for special tokens named only there.
  // kNotFound when there is no tokenizer.json: such a model is served with token-id prompts.
  static Result<std::shared_ptr<const Tokenizer>> load(const std::filesystem::path& model_directory,
                                                       const Limits& limits);

  // The same from memory. `origin` (a path) is what error messages call it. kUnsupported for a component that is
  // not implemented, kCorruptData for a file that contradicts itself; both name the key.
  static Result<std::shared_ptr<const Tokenizer>> parse(std::string_view tokenizer_json, std::string_view origin,
                                                        const Limits& limits);

  // Of a GGUF file's metadata. kUnsupported for models and word patterns that are not implemented, kCorruptData for
  // lists that contradict each other; both name the key.
  static Result<std::shared_ptr<const Tokenizer>> build(const Vocabulary& vocabulary, const Limits& limits);

  ~Tokenizer();

  // Token ids of `text`. `add_special_tokens` adds what the post-processor puts around a text (such as BOS);
  // special and added tokens spelt out in the text are recognised in either case.
  // kInvalidArgument when `text` is not UTF-8 (the message names the byte offset).
  Result<std::vector<std::uint32_t>> encode(std::string_view text, bool add_special_tokens) const;

  // Text of `tokens`; ids without a token are left out, bytes that form no UTF-8 character become U+FFFD.
  std::string decode(std::span<const std::uint32_t> tokens, bool skip_special_tokens) const;

  // Raw bytes of one token, maybe a part of a UTF-8 character; "" when there is no such token.
  std::string token_bytes(std::uint32_t id) const;

  // Id of a token by its spelling in tokenizer.json or the GGUF file.
  std::optional<std::uint32_t> token_id(std::string_view token) const;

  bool is_special(std::uint32_t id) const;

  // Largest id + 1.
  std::size_t vocab_size() const;

 private:
  friend class StreamDecoder;
  struct Parts;

  explicit Tokenizer(std::unique_ptr<const Parts> parts);

  // `config` (tokenizer_config.json) may be null.
  static Result<std::unique_ptr<const Parts>> parse_parts(const JsonDocument& document, const JsonDocument* config,
                                                          const Limits& limits);

  std::unique_ptr<const Parts> parts_;
};

}  // namespace troupe::text
