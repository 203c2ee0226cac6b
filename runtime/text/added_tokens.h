#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/text/json_node.h"
#include "runtime/text/normalizer.h"
#include "runtime/text/regex.h"
#include "runtime/text/token_model.h"
#include "runtime/text/trie.h"

namespace troupe::text {

// A token that is recognised in a text as a whole, before anything is split.
struct AddedToken {
  std::uint32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // is looked for in the normalised text
  bool special = false;
};

// A stretch of a text: an added token, or what lies between two of them.
struct Stretch {
  Span span;
  std::optional<std::uint32_t> token;
};

// All added tokens of a tokenizer. Immutable after finish(), then thread-safe.
class AddedTokens {
 public:
  // Adds one entry of the list `added_tokens`, or of the map `added_tokens_decoder` whose key is the id.
  Result<void> add(const JsonNode& node, std::uint32_t id, const TokenModel& model);
  // Adds a token; `place` names it in errors. A spelling that is already there stays as it is, an empty one is left
  // out. kCorruptData when its id contradicts the vocabulary or another entry.
  Result<void> add(AddedToken token, const TokenModel& model, const std::string& place);

  // Prepares matching. `normalizer` may be null.
  Result<void> finish(const Normalizer* normalizer);

  // Cuts a text at the added tokens that are matched before, or after normalisation. The first match counts, and the
  // longest of those. Stretches are in order and cover the text.
  std::vector<Stretch> split_raw(std::string_view text) const { return split(text, raw_); }
  std::vector<Stretch> split_normalized(std::string_view text) const { return split(text, normalized_); }

  std::optional<std::uint32_t> id_of(std::string_view content) const;
  // nullptr when there is none of that id.
  const AddedToken* find(std::uint32_t id) const;

  // Largest id + 1, 0 when there are none.
  std::size_t size() const { return size_; }

 private:
  std::vector<Stretch> split(std::string_view text, const Trie& trie) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, std::size_t> by_content_;  // index into tokens_
  std::unordered_map<std::uint32_t, std::size_t> by_id_;
  Trie raw_;  // values are indices into tokens_
  Trie normalized_;
  std::size_t size_ = 0;
};

}  // namespace troupe::text
