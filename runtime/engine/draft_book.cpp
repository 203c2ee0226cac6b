#include "runtime/engine/draft_book.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace troupe::engine {

namespace {

bool fits(schema::DraftReply::Reader reply, std::size_t sequences, std::uint32_t guesses) {
  const auto counts = reply.getGuessCounts();
  if (reply.getLengths().size() != sequences || counts.size() != sequences) return false;
  std::uint64_t sum = 0;
  for (const std::uint32_t count : counts) {
    if (count > guesses) return false;
    sum += count;
  }
  return sum == reply.getTokens().size();
}

}  // namespace

bool DraftBook::asked(const Sequence& sequence) const {
  const auto found = entries_.find(sequence.id);
  return found != entries_.end() && found->second.asked_length == sequence.length();
}

bool DraftBook::can_know(SequenceId id) const {
  const auto found = entries_.find(id);
  return found == entries_.end() || !found->second.no_room;
}

std::uint32_t DraftBook::untold(const Sequence& sequence) const {
  const auto found = entries_.find(sequence.id);
  return found == entries_.end() ? sequence.length() : sequence.length() - found->second.told;
}

void DraftBook::tell(std::span<Sequence* const> sequences, std::uint64_t now_ns,
                     schema::DraftRequest::Builder request) {
  assert(can_tell());
  send(sequences, {.sequences = {}, .sent_ns = now_ns}, request);
}

void DraftBook::ask(std::span<Sequence* const> sequences, std::uint32_t guesses, std::uint64_t now_ns,
                    std::uint64_t deadline_ns, schema::DraftRequest::Builder request) {
  assert(can_ask() && guesses > 0);
  send(sequences, {.sequences = {}, .guesses = guesses, .sent_ns = now_ns, .deadline_ns = deadline_ns, .awaited = true},
       request);
  for (Sequence* sequence : sequences) {
    Entry& entry = entries_[sequence->id];
    entry.asked_length = sequence->length();
    entry.guesses.clear();
    sequence->awaits_guesses = true;
  }
}

void DraftBook::send(std::span<Sequence* const> sequences, Ask ask, schema::DraftRequest::Builder request) {
  const auto size = static_cast<unsigned>(sequences.size());
  auto ids = request.initSequences(size);
  auto starts = request.initStartPositions(size);
  auto counts = request.initTokenCounts(size);
  request.setGuesses(ask.guesses);
  unsigned tokens_size = 0;
  for (unsigned i = 0; i < size; ++i) {
    const Sequence& sequence = *sequences[i];
    const std::uint32_t told = entries_[sequence.id].told;
    const std::uint32_t count = sequence.length() - told;
    ids.set(i, sequence.id);
    starts.set(i, told);
    counts.set(i, count);
    tokens_size += count;
    ask.most_tokens = std::max(ask.most_tokens, count);
    ask.sequences.push_back({sequence.id, told, sequence.length()});
  }
  auto tokens = request.initTokens(tokens_size);
  unsigned next = 0;
  for (const Sequence* sequence : sequences) {
    Entry& entry = entries_[sequence->id];
    for (std::uint32_t i = entry.told; i < sequence->length(); ++i) tokens.set(next++, sequence->tokens[i]);
    entry.told = sequence->length();
  }
  const std::vector<SequenceId> released = std::exchange(released_, {});
  request.setReleased({released.data(), released.size()});
  asks_.push_back(std::move(ask));
}

void DraftBook::take(schema::DraftReply::Reader reply, Sequences& sequences, std::uint64_t now_ns) {
  if (asks_.empty()) return;
  if (!fits(reply, asks_.front().sequences.size(), asks_.front().guesses)) {
    for (const Ask& ask : asks_) {
      for (const Asked& asked : ask.sequences) {
        if (const auto found = entries_.find(asked.id); found != entries_.end()) found->second.no_room = true;
      }
    }
    return lose(sequences);
  }
  stop_waiting(asks_.front(), sequences);
  const Ask ask = std::move(asks_.front());
  asks_.pop_front();
  const auto counts = reply.getGuessCounts(), lengths = reply.getLengths(), tokens = reply.getTokens();
  const std::uint32_t most_guesses = *std::max_element(counts.begin(), counts.end());
  // To read a prompt takes longer, once.
  if (most_guesses > 0 && ask.most_tokens <= ask.guesses + 1) {
    cost_.observe(most_guesses, static_cast<double>(now_ns - ask.sent_ns));
  }
  unsigned next = 0;
  for (unsigned i = 0; i < ask.sequences.size(); ++i) {
    const unsigned first = std::exchange(next, next + counts[i]);
    const auto [id, start, end] = ask.sequences[i];
    const std::uint32_t length = lengths[i];
    const auto found = entries_.find(id);
    if (found == entries_.end()) continue;
    Entry& entry = found->second;
    // Who was told everything and knows nothing has no room for it.
    entry.no_room = start == 0 && length == 0;
    // What it is told since is of no use to one that has forgotten what comes before.
    if (length < end) entry.told = std::min(entry.told, length);
    for (unsigned k = first; k < next; ++k) entry.guesses.push_back(tokens[k]);
  }
}

void DraftBook::lose(Sequences& sequences) {
  stop_waiting(sequences);
  asks_.clear();
  released_.clear();
  for (auto& [id, entry] : entries_) entry.told = 0;
}

std::optional<std::uint64_t> DraftBook::deadline_ns() const {
  if (asks_.empty() || !asks_.back().awaited) return std::nullopt;
  return asks_.back().deadline_ns;
}

void DraftBook::stop_waiting(Sequences& sequences) {
  for (Ask& ask : asks_) stop_waiting(ask, sequences);
}

void DraftBook::stop_waiting(Ask& ask, Sequences& sequences) {
  if (!std::exchange(ask.awaited, false)) return;
  for (const Asked& asked : ask.sequences) {
    if (Sequence* sequence = sequences.find(asked.id)) sequence->awaits_guesses = false;
  }
}

std::span<const std::uint32_t> DraftBook::guesses(const Sequence& sequence) const {
  const auto found = entries_.find(sequence.id);
  if (found == entries_.end() || found->second.asked_length != sequence.length()) return {};
  return found->second.guesses;
}

void DraftBook::forget(SequenceId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  released_.push_back(id);
  entries_.erase(found);
}

}  // namespace troupe::engine
