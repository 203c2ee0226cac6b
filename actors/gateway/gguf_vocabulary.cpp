#include "actors/gateway/gguf_vocabulary.h"

#include <string>

namespace troupe {
namespace {

using model::GgufMetadata;

constexpr std::string_view kLimit = "tokenizer_entries";
// What llama.cpp takes where a SentencePiece file names no token.
constexpr std::uint64_t kLlamaUnknown = 0;
constexpr std::uint64_t kLlamaBos = 1;
constexpr std::uint64_t kLlamaEos = 2;

Result<std::optional<std::uint64_t>> id(const GgufMetadata& metadata, std::string_view key,
                                        std::optional<std::uint64_t> otherwise) {
  if (!metadata.contains(key)) return otherwise;
  TROUPE_ASSIGN_OR_RETURN(const auto value, metadata.unsigned_integer(key, 0, UINT32_MAX));
  return std::optional(value);
}

Result<std::optional<bool>> flag(const GgufMetadata& metadata, std::string_view key) {
  if (!metadata.contains(key)) return std::optional<bool>();
  TROUPE_ASSIGN_OR_RETURN(const bool value, metadata.boolean(key, false));
  return std::optional(value);
}

}  // namespace

Result<text::Vocabulary> read_vocabulary(const model::GgufFile& file, const Limits& limits) {
  const GgufMetadata& metadata = file.metadata();
  const std::uint64_t max = limits.tokenizer_entries;
  text::Vocabulary out;
  out.origin = file.place();
  TROUPE_ASSIGN_OR_RETURN(out.model, metadata.string("tokenizer.ggml.model", "none"));
  if (out.model == "none" || out.model == "no_vocab") return not_found(file.place() + ": has no tokenizer");
  TROUPE_ASSIGN_OR_RETURN(out.pre, metadata.string("tokenizer.ggml.pre", ""));
  TROUPE_ASSIGN_OR_RETURN(out.tokens, metadata.strings("tokenizer.ggml.tokens", max, kLimit));
  TROUPE_ASSIGN_OR_RETURN(out.types, metadata.integers("tokenizer.ggml.token_type", max, kLimit));
  TROUPE_ASSIGN_OR_RETURN(out.scores, metadata.floats("tokenizer.ggml.scores", max, kLimit));
  TROUPE_ASSIGN_OR_RETURN(out.merges, metadata.strings("tokenizer.ggml.merges", max, kLimit));
  const bool is_llama = out.model == "llama";
  const auto or_llamas = [is_llama](std::uint64_t id) { return is_llama ? std::optional(id) : std::nullopt; };
  TROUPE_ASSIGN_OR_RETURN(out.bos, id(metadata, "tokenizer.ggml.bos_token_id", or_llamas(kLlamaBos)));
  TROUPE_ASSIGN_OR_RETURN(out.eos, id(metadata, "tokenizer.ggml.eos_token_id", or_llamas(kLlamaEos)));
  TROUPE_ASSIGN_OR_RETURN(out.unknown, id(metadata, "tokenizer.ggml.unknown_token_id", or_llamas(kLlamaUnknown)));
  TROUPE_ASSIGN_OR_RETURN(out.add_bos, flag(metadata, "tokenizer.ggml.add_bos_token"));
  TROUPE_ASSIGN_OR_RETURN(out.add_eos, flag(metadata, "tokenizer.ggml.add_eos_token"));
  TROUPE_ASSIGN_OR_RETURN(out.add_space_prefix, flag(metadata, "tokenizer.ggml.add_space_prefix"));
  return out;
}

}  // namespace troupe
