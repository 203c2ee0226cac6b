#include "runtime/text/bpe.h"

#include <queue>

#include "runtime/base/log.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};

std::string in_quotes(std::string_view text) { return "\"" + printable(text) + "\""; }

}  // namespace

// The symbols of one piece as a doubly linked list inside a vector.
struct Bpe::Word {
  struct Symbol {
    std::uint32_t token;
    std::uint32_t previous;
    std::uint32_t next;
    bool merged_away = false;
  };

  std::vector<Symbol> symbols;

  void add(std::uint32_t token) {
    const auto index = static_cast<std::uint32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({token, index > 0 ? index - 1 : kNone, kNone});
  }
};

Result<Bpe> Bpe::parse(const JsonNode& model, const Limits& limits) {
  Bpe bpe;
  bpe.origin_ = model.origin();
  TROUPE_RETURN_IF_ERROR(bpe.parse_options(model));
  TROUPE_ASSIGN_OR_RETURN(const auto vocabulary, model.at("vocab"));
  TROUPE_RETURN_IF_ERROR(bpe.parse_vocabulary(vocabulary, limits));
  bpe.index_bytes_and_characters();
  TROUPE_ASSIGN_OR_RETURN(const auto merges, model.at("merges"));
  TROUPE_RETURN_IF_ERROR(bpe.parse_merges(merges, limits));
  return bpe;
}

Result<Bpe> Bpe::from_merges(TokenTable table, std::span<const std::string_view> merges, bool ignore_merges,
                             const std::string& place) {
  Bpe bpe;
  bpe.origin_ = place;
  bpe.table_ = std::move(table);
  bpe.ignore_merges_ = ignore_merges;
  bpe.index_bytes_and_characters();
  bpe.merges_.reserve(merges.size());
  for (std::uint32_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view line = merges[rank];
    const std::size_t space = line.find(' ', 1);  // the first token may begin with one
    std::optional<std::string> wrong = "must be two tokens with one space between them";
    if (space != std::string_view::npos) wrong = bpe.add_merge(line.substr(0, space), line.substr(space + 1), rank);
    if (wrong) return corrupt_data(place + "[" + std::to_string(rank) + "]: " + *wrong);
  }
  return bpe;
}

Result<void> Bpe::parse_options(const JsonNode& model) {
  TROUPE_ASSIGN_OR_RETURN(const auto type, model.find("type"));
  if (type) {  // the oldest files have none
    TROUPE_ASSIGN_OR_RETURN(const auto name, type->string());
    if (name != "BPE") {
      return type->not_supported("the model " + in_quotes(name) +
                                 " is not supported, only BPE is; the model can be served with token-id prompts");
    }
  }
  TROUPE_ASSIGN_OR_RETURN(const auto dropout, model.find("dropout"));
  if (dropout && !dropout->is_zero()) return dropout->not_supported("dropout makes encoding random; set it to null");
  TROUPE_ASSIGN_OR_RETURN(continuing_subword_prefix_, model.string_or("continuing_subword_prefix", ""));
  TROUPE_ASSIGN_OR_RETURN(end_of_word_suffix_, model.string_or("end_of_word_suffix", ""));
  TROUPE_ASSIGN_OR_RETURN(unknown_token_, model.string_or("unk_token", ""));
  TROUPE_ASSIGN_OR_RETURN(fuse_unknown_, model.boolean_or("fuse_unk", false));
  TROUPE_ASSIGN_OR_RETURN(byte_fallback_, model.boolean_or("byte_fallback", false));
  TROUPE_ASSIGN_OR_RETURN(ignore_merges_, model.boolean_or("ignore_merges", false));
  return {};
}

Result<void> Bpe::parse_vocabulary(const JsonNode& vocabulary, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto members, vocabulary.members());
  if (members.size() > limits.tokenizer_entries) {
    return vocabulary.corrupt("has more entries than the limit tokenizer_entries (" +
                              std::to_string(limits.tokenizer_entries) + ")");
  }
  table_.reserve(members.size());
  for (const auto& [token, node] : members) {
    TROUPE_ASSIGN_OR_RETURN(const auto id, node.unsigned_integer(limits.tokenizer_entries - 1));
    if (const std::string* other = table_.token_of(static_cast<std::uint32_t>(id))) {
      return node.corrupt("id " + std::to_string(id) + " is already that of " + in_quotes(*other));
    }
    table_.add(token, static_cast<std::uint32_t>(id));
  }
  if (!unknown_token_.empty()) unknown_ = id_of(unknown_token_);
  return {};
}

void Bpe::index_bytes_and_characters() {
  for (const auto& [token, id] : table_) {
    if (token.empty()) continue;
    const Character first = character_at(token, 0);
    if (first.bytes == token.size()) characters_.emplace(first.code_point, id);
  }
  byte_tokens_ = find_byte_tokens(table_);
}

Result<void> Bpe::parse_merges(const JsonNode& merges, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto elements, merges.elements());
  if (elements.size() > limits.tokenizer_entries) {
    return merges.corrupt("has more entries than the limit tokenizer_entries (" +
                          std::to_string(limits.tokenizer_entries) + ")");
  }
  merges_.reserve(elements.size());
  std::uint32_t rank = 0;
  for (const JsonNode& element : elements) {
    if (element.is_string()) {
      TROUPE_ASSIGN_OR_RETURN(const auto line, element.string());
      if (line.starts_with("#version")) continue;
      const auto space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
        return element.corrupt("must be two tokens with one space between them");
      }
      if (const auto wrong = add_merge(line.substr(0, space), line.substr(space + 1), rank++)) {
        return element.corrupt(*wrong);
      }
    } else {
      TROUPE_ASSIGN_OR_RETURN(const auto pair, element.elements());
      if (pair.size() != 2) return element.corrupt("must be two tokens");
      TROUPE_ASSIGN_OR_RETURN(const auto left, pair[0].string());
      TROUPE_ASSIGN_OR_RETURN(const auto right, pair[1].string());
      if (const auto wrong = add_merge(left, right, rank++)) return element.corrupt(*wrong);
    }
  }
  return {};
}

std::optional<std::string> Bpe::add_merge(std::string_view left, std::string_view right, std::uint32_t rank) {
  const auto left_id = id_of(left);
  if (!left_id) return in_quotes(left) + " is not in the vocabulary";
  const auto right_id = id_of(right);
  if (!right_id) return in_quotes(right) + " is not in the vocabulary";
  std::string joined(left);
  // The prefix that marks a continuing subword is not repeated inside a token.
  joined += right.starts_with(continuing_subword_prefix_) ? right.substr(continuing_subword_prefix_.size()) : right;
  const auto joined_id = id_of(joined);
  if (!joined_id) return "the result " + in_quotes(joined) + " is not in the vocabulary";
  merges_.insert(*left_id, *right_id, Merge{rank, *joined_id});
  return std::nullopt;
}

Result<void> Bpe::encode(std::string_view piece, std::vector<std::uint32_t>& tokens) const {
  if (ignore_merges_) {
    if (const auto id = id_of(piece)) {
      tokens.push_back(*id);
      return {};
    }
  }
  TROUPE_ASSIGN_OR_RETURN(Word word, symbols_of(piece));
  merge_all(word);
  for (const auto& symbol : word.symbols) {
    if (!symbol.merged_away) tokens.push_back(symbol.token);
  }
  return {};
}

std::optional<std::uint32_t> Bpe::symbol(std::string_view character, bool first, bool last) const {
  const bool prefixed = !first && !continuing_subword_prefix_.empty();
  const bool suffixed = last && !end_of_word_suffix_.empty();
  if (prefixed || suffixed) {
    return id_of((prefixed ? continuing_subword_prefix_ : "") + std::string(character) +
                 (suffixed ? end_of_word_suffix_ : ""));
  }
  const auto found = characters_.find(character_at(character, 0).code_point);
  if (found == characters_.end()) return std::nullopt;
  return found->second;
}

// All bytes of the character, or none of them.
bool Bpe::append_bytes(std::string_view character, Word& word) const {
  for (const char c : character) {
    if (!byte_tokens_[static_cast<unsigned char>(c)]) return false;
  }
  for (const char c : character) word.add(*byte_tokens_[static_cast<unsigned char>(c)]);
  return true;
}

Result<Bpe::Word> Bpe::symbols_of(std::string_view piece) const {
  Word word;
  word.symbols.reserve(piece.size());
  bool unknown_pending = false;
  const auto flush_unknown = [&] {
    if (unknown_pending) word.add(*unknown_);
    unknown_pending = false;
  };
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t bytes = character_at(piece, at).bytes;
    const std::string_view character = piece.substr(at, bytes);
    if (const auto id = symbol(character, at == 0, at + bytes == piece.size())) {
      flush_unknown();
      word.add(*id);
    } else if (!byte_fallback_ || !append_bytes(character, word)) {
      if (!unknown_token_.empty()) {
        if (!unknown_) {
          return invalid_argument(origin_ + ": model.unk_token " + in_quotes(unknown_token_) +
                                  " is not in model.vocab, so that " + in_quotes(character) + " cannot be encoded");
        }
        if (!fuse_unknown_) flush_unknown();
        unknown_pending = true;
      }
      // Without an unknown token such a character is left out, as the format's reference does.
    }
    at += bytes;
  }
  flush_unknown();
  return word;
}

// Joins the pair of lowest rank, the leftmost of equals, until none is left. Each join adds at most two candidates to
// the queue and removes a symbol, hence O(n log n).
void Bpe::merge_all(Word& word) const {
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t left;   // index of its left symbol
    std::uint32_t token;  // that it would become

    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  auto& symbols = word.symbols;
  std::vector<Candidate> first;
  first.reserve(symbols.size());
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Merge* merge = merges_.find(symbols[i].token, symbols[i + 1].token)) {
      first.push_back({merge->rank, i, merge->token});
    }
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(), std::move(first));
  const auto consider = [&](std::uint32_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    if (const Merge* merge = merges_.find(symbols[left].token, symbols[symbols[left].next].token)) {
      queue.push({merge->rank, left, merge->token});
    }
  };
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    auto& left = symbols[candidate.left];
    if (left.merged_away || left.next == kNone) continue;
    auto& right = symbols[left.next];
    // Either symbol may have changed since the candidate was queued.
    const Merge* merge = merges_.find(left.token, right.token);
    if (!merge || merge->token != candidate.token) continue;
    left.token = candidate.token;
    left.next = right.next;
    right.merged_away = true;
    if (left.next != kNone) symbols[left.next].previous = candidate.left;
    consider(left.previous);
    consider(candidate.left);
  }
}

}  // namespace troupe::text
