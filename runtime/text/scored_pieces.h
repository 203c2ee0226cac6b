#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/token_model.h"
#include "runtime/text/token_table.h"

namespace troupe::text {

// SentencePiece's byte-pair encoding as llama.cpp runs it from a GGUF file ("llama"): two neighbours join when their
// text together is a token, the one of the highest score first. Immutable, thread-safe.
class ScoredPieces final : public TokenModel {
 public:
  // scores: by id, as many as there are ids in `table`. `unknown` stands for bytes that have no token.
  // REQUIRES: every token is UTF-8; no score is NaN.
  ScoredPieces(TokenTable table, std::vector<float> scores, std::optional<std::uint32_t> unknown);

  // In O(n log n) for tokens of bounded length.
  Result<void> encode(std::string_view piece, std::vector<std::uint32_t>& tokens) const override;

  std::optional<std::uint32_t> id_of(std::string_view token) const override { return table_.id_of(token); }
  const std::string* token_of(std::uint32_t id) const override { return table_.token_of(id); }
  std::size_t size() const override { return table_.size(); }

 private:
  struct Symbol;
  void merge_all(std::string_view piece, std::vector<Symbol>& symbols) const;
  void append_bytes(std::string_view text, std::vector<std::uint32_t>& tokens) const;

  TokenTable table_;
  std::vector<float> scores_;  // by id
  std::optional<std::uint32_t> unknown_;
  ByteTokens byte_tokens_;
  std::size_t longest_ = 0;  // bytes of the longest token: no longer text is looked up
};

}  // namespace troupe::text
