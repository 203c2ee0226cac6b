#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/text/json_node.h"
#include "runtime/text/merge_table.h"

namespace troupe::text {

// Byte-pair encoding (Sennrich et al. 2016) with the vocabulary and merges of the `model` of tokenizer.json.
// Immutable, thread-safe.
class Bpe {
 public:
  static Result<Bpe> parse(const JsonNode& model, const Limits& limits);

  // Appends the tokens of one piece, in O(n log n). kInvalidArgument when a character has no token and the model no
  // unknown token that exists. REQUIRES: `piece` is UTF-8.
  Result<void> encode(std::string_view piece, std::vector<std::uint32_t>& tokens) const;

  std::optional<std::uint32_t> id_of(std::string_view token) const;
  // nullptr when no token has that id.
  const std::string* token_of(std::uint32_t id) const;
  // Largest id + 1.
  std::size_t size() const { return tokens_.size(); }

 private:
  struct Word;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  Bpe() = default;
  Result<void> parse_options(const JsonNode& model);
  Result<void> parse_vocabulary(const JsonNode& vocabulary, const Limits& limits);
  Result<void> parse_merges(const JsonNode& merges, const Limits& limits);
  Result<void> add_merge(std::string_view left, std::string_view right, std::uint32_t rank, const JsonNode& node);
  void index_bytes_and_characters();

  Result<Word> symbols_of(std::string_view piece) const;
  bool append_bytes(std::string_view character, Word& word) const;
  std::optional<std::uint32_t> symbol(std::string_view character, bool first, bool last) const;
  void merge_all(Word& word) const;

  std::string origin_;
  std::unordered_map<std::string, std::uint32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> tokens_;  // by id; into ids_, whose nodes do not move
  MergeTable merges_;
  std::unordered_map<char32_t, std::uint32_t> characters_;  // tokens of one character
  std::vector<std::optional<std::uint32_t>> byte_tokens_;   // of <0x00> ... <0xFF>
  std::string continuing_subword_prefix_;
  std::string end_of_word_suffix_;
  std::string unknown_token_;
  std::optional<std::uint32_t> unknown_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace troupe::text
