#include "runtime/engine/speculation.h"

#include <algorithm>

namespace troupe::engine {

namespace {

constexpr double kFirstAcceptance = 0.5;  // expected before anything was seen

}  // namespace

void Speculation::add_guesses(Batch& batch, std::uint32_t rows_left, BlockManager& blocks) {
  if (max_guesses_ == 0) return;
  std::vector<Guessed> guessed;
  std::vector<GuessCandidate> candidates;
  std::uint32_t decodes = 0;
  for (BatchItem& item : batch.items) {
    const Sequence& sequence = *item.sequence;
    if (sequence.phase != Phase::kDecode) continue;
    ++decodes;
    if (!sequence.speculates) continue;
    // The token that is sampled in any case comes after the guesses, and ends the sequence at the latest.
    const std::uint32_t most = std::min(max_guesses_, sequence.max_length - sequence.length() - 1);
    State& state = states_[sequence.id];
    NgramProposer::Proposal proposal = state.ngram.propose(sequence.tokens, most);
    if (proposal.tokens.empty()) continue;
    state.kind = proposal.matched - NgramProposer::kMinMatch;
    const double prior = overall_[state.kind].rate(kFirstAcceptance);
    candidates.push_back({.most = most, .acceptance = state.acceptance[state.kind].rate(prior)});
    guessed.push_back({&item, &state, std::move(proposal.tokens)});
  }
  const std::vector<std::uint32_t> lengths = guess_lengths(candidates, decodes, rows_left, cost_);
  for (const std::uint32_t length : lengths) rows_left -= length;
  for (std::size_t i = 0; i < guessed.size(); ++i) {
    State& state = *guessed[i].state;
    if (lengths[i] > 0) {
      give(guessed[i], lengths[i], blocks);
      state.steps_without = 0;
    } else if (++state.steps_without >= state.patience && rows_left > 0) {
      give(guessed[i], 1, blocks);
      --rows_left;
      state.steps_without = 0;
      state.patience = std::min(2 * state.patience, kMostPatience);
    }
  }
}

void Speculation::give(const Guessed& guessed, std::uint32_t length, BlockManager& blocks) {
  const Sequence& sequence = *guessed.item->sequence;
  if (!blocks.grow(sequence.id, sequence.length() + length)) {
    const std::uint64_t room = blocks.table(sequence.id).size() * std::uint64_t{blocks.block_size()};
    length = static_cast<std::uint32_t>(std::min<std::uint64_t>(length, room - sequence.length()));
  }
  guessed.item->guesses.assign(guessed.tokens.begin(), guessed.tokens.begin() + length);
}

void Speculation::learn(SequenceId id, std::uint32_t guesses, std::uint32_t accepted) {
  State& state = states_.at(id);
  state.acceptance[state.kind].observe(guesses, accepted);
  overall_[state.kind].observe(guesses, accepted);
  if (accepted == guesses) state.patience = kLeastPatience;
  counts_.proposed += guesses;
  counts_.accepted += accepted;
  ++counts_.runs;
}

void Speculation::step_took(std::uint32_t rows, std::uint64_t ns) { cost_.observe(rows, static_cast<double>(ns)); }

}  // namespace troupe::engine
