#include "runtime/text/scored_pieces.h"

#include <algorithm>
#include <queue>

#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};

}  // namespace

// A stretch of the piece: one character at first, and what it has joined with. A doubly linked list inside a vector.
struct ScoredPieces::Symbol {
  std::size_t begin = 0;
  std::size_t bytes = 0;  // 0 once it is part of the symbol before it
  std::uint32_t previous = kNone;
  std::uint32_t next = kNone;
};

ScoredPieces::ScoredPieces(TokenTable table, std::vector<float> scores, std::optional<std::uint32_t> unknown)
    : table_(std::move(table)), scores_(std::move(scores)), unknown_(unknown), byte_tokens_(find_byte_tokens(table_)) {
  for (const auto& [token, id] : table_) longest_ = std::max(longest_, token.size());
}

Result<void> ScoredPieces::encode(std::string_view piece, std::vector<std::uint32_t>& tokens) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t bytes = character_at(piece, at).bytes;
    const auto index = static_cast<std::uint32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({at, bytes, index > 0 ? index - 1 : kNone, kNone});
    at += bytes;
  }
  merge_all(piece, symbols);
  for (const Symbol& symbol : symbols) {
    if (symbol.bytes == 0) continue;
    const std::string_view text = piece.substr(symbol.begin, symbol.bytes);
    if (const auto id = table_.id_of(text)) {
      tokens.push_back(*id);
    } else {
      append_bytes(text, tokens);
    }
  }
  return {};
}

// A byte without a token of its own may have one as a character; else it is unknown, or nothing at all.
void ScoredPieces::append_bytes(std::string_view text, std::vector<std::uint32_t>& tokens) const {
  for (const char byte : text) {
    auto id = byte_tokens_[static_cast<unsigned char>(byte)];
    if (!id) id = table_.id_of(std::string_view(&byte, 1));
    if (!id) id = unknown_;
    if (id) tokens.push_back(*id);
  }
}

// Joins the pair of the highest score, the leftmost of equals, until none is left. Each join adds at most two
// candidates to the queue and removes a symbol, hence O(n log n).
void ScoredPieces::merge_all(std::string_view piece, std::vector<Symbol>& symbols) const {
  struct Candidate {
    float score;
    std::uint32_t left;  // index of its left symbol
    std::size_t bytes;   // of both together, when it was queued

    bool operator<(const Candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::uint32_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    const std::size_t bytes = symbols[left].bytes + symbols[symbols[left].next].bytes;
    if (bytes > longest_) return;
    const auto id = table_.id_of(piece.substr(symbols[left].begin, bytes));
    if (id) queue.push({scores_[*id], left, bytes});
  };
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = symbols[candidate.left];
    if (left.bytes == 0 || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    // Either symbol may have grown since the candidate was queued.
    if (left.bytes + right.bytes != candidate.bytes) continue;
    left.bytes = candidate.bytes;
    right.bytes = 0;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = candidate.left;
    consider(left.previous);
    consider(candidate.left);
  }
}

}  // namespace troupe::text
