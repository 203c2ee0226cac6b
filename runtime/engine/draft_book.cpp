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

void DraftBook::ask(std::span<Sequence* const> sequences, std::uint32_t guesses, std::uint64_t now_ns,
                    std::uint64_t deadline_ns, schema::DraftRequest::Builder request) {
  assert(!ask_ && !sequences.empty() && guesses > 0);
  ask_ = Ask{.sequences = {}, .guesses = guesses, .sent_ns = now_ns, .deadline_ns = deadline_ns};
  const auto size = static_cast<unsigned>(sequences.size());
  auto ids = request.initSequences(size);
  auto starts = request.initStartPositions(size);
  auto counts = request.initTokenCounts(size);
  request.setGuesses(guesses);
  unsigned tokens_size = 0;
  for (unsigned i = 0; i < size; ++i) {
    Sequence& sequence = *sequences[i];
    Entry& entry = entries_[sequence.id];
    const std::uint32_t count = sequence.length() - entry.told;
    ids.set(i, sequence.id);
    starts.set(i, entry.told);
    counts.set(i, count);
    tokens_size += count;
    ask_->most_tokens = std::max(ask_->most_tokens, count);
    ask_->sequences.push_back({sequence.id, entry.told});
    sequence.awaits_guesses = true;
  }
  auto tokens = request.initTokens(tokens_size);
  unsigned next = 0;
  for (const Sequence* sequence : sequences) {
    Entry& entry = entries_[sequence->id];
    for (std::uint32_t i = entry.told; i < sequence->length(); ++i) tokens.set(next++, sequence->tokens[i]);
    entry.told = sequence->length();
    entry.asked_length = sequence->length();
    entry.guesses.clear();
  }
  const std::vector<SequenceId> released = std::exchange(released_, {});
  auto list = request.initReleased(static_cast<unsigned>(released.size()));
  for (unsigned i = 0; i < released.size(); ++i) list.set(i, released[i]);
}

void DraftBook::take(schema::DraftReply::Reader reply, Sequences& sequences, std::uint64_t now_ns) {
  if (!ask_) return;
  if (!fits(reply, ask_->sequences.size(), ask_->guesses)) {
    for (const Asked& asked : ask_->sequences) {
      if (const auto found = entries_.find(asked.id); found != entries_.end()) found->second.no_room = true;
    }
    return lose(sequences);
  }
  stop_waiting(sequences);
  const Ask ask = *std::exchange(ask_, std::nullopt);
  const auto counts = reply.getGuessCounts();
  const std::uint32_t most_guesses = *std::max_element(counts.begin(), counts.end());
  // To read a prompt takes longer, once.
  if (most_guesses > 0 && ask.most_tokens <= ask.guesses + 1) {
    cost_.observe(most_guesses, static_cast<double>(now_ns - ask.sent_ns));
  }
  unsigned next = 0;
  for (unsigned i = 0; i < ask.sequences.size(); ++i) {
    const std::uint32_t count = reply.getGuessCounts()[i];
    const unsigned first = std::exchange(next, next + count);
    const auto [id, start] = ask.sequences[i];
    const auto found = entries_.find(id);
    if (found == entries_.end()) continue;
    Entry& entry = found->second;
    // Who was told everything and knows nothing has no room for it.
    entry.no_room = start == 0 && reply.getLengths()[i] == 0;
    entry.told = std::min(entry.told, reply.getLengths()[i]);
    for (unsigned k = first; k < next; ++k) entry.guesses.push_back(reply.getTokens()[k]);
  }
}

void DraftBook::lose(Sequences& sequences) {
  stop_waiting(sequences);
  ask_.reset();
  released_.clear();
  for (auto& [id, entry] : entries_) entry.told = 0;
}

std::optional<std::uint64_t> DraftBook::deadline_ns() const {
  if (!ask_ || !ask_->awaited) return std::nullopt;
  return ask_->deadline_ns;
}

void DraftBook::stop_waiting(Sequences& sequences) {
  if (!ask_ || !std::exchange(ask_->awaited, false)) return;
  for (const Asked& asked : ask_->sequences) {
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
