#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/text/json_node.h"
#include "runtime/text/merge_table.h"
#include "runtime/text/token_model.h"
#include "runtime/text/token_table.h"

namespace troupe::text {

// Byte-pair encoding (Sennrich et al. 2016) with a vocabulary and merges in the order of their rank.
// Immutable, thread-safe.
class Bpe final : public TokenModel {
 public:
  // The `model` of tokenizer.json.
  static Result<Bpe> parse(const JsonNode& model, const Limits& limits);
  // Of a table of tokens and of merges written "LEFT RIGHT"; `place` names their list in errors. A piece that is a
  // token as a whole becomes that token, whatever the merges say, if `ignore_merges`. REQUIRES: every token is UTF-8.
  static Result<Bpe> from_merges(TokenTable table, std::span<const std::string_view> merges, bool ignore_merges,
                                 const std::string& place);

  // In O(n log n).
  Result<void> encode(std::string_view piece, std::vector<std::uint32_t>& tokens) const override;

  std::optional<std::uint32_t> id_of(std::string_view token) const override { return table_.id_of(token); }
  const std::string* token_of(std::uint32_t id) const override { return table_.token_of(id); }
  std::size_t size() const override { return table_.size(); }

 private:
  struct Word;

  Bpe() = default;
  Result<void> parse_options(const JsonNode& model);
  Result<void> parse_vocabulary(const JsonNode& vocabulary, const Limits& limits);
  Result<void> parse_merges(const JsonNode& merges, const Limits& limits);
  // Adds a merge, or says why it cannot be one.
  std::optional<std::string> add_merge(std::string_view left, std::string_view right, std::uint32_t rank);
  void index_bytes_and_characters();

  Result<Word> symbols_of(std::string_view piece) const;
  bool append_bytes(std::string_view character, Word& word) const;
  std::optional<std::uint32_t> symbol(std::string_view character, bool first, bool last) const;
  void merge_all(Word& word) const;

  std::string origin_;
  TokenTable table_;
  MergeTable merges_;
  std::unordered_map<char32_t, std::uint32_t> characters_;  // tokens of one character
  ByteTokens byte_tokens_;
  std::string continuing_subword_prefix_;
  std::string end_of_word_suffix_;
  std::string unknown_token_;
  std::optional<std::uint32_t> unknown_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace troupe::text
