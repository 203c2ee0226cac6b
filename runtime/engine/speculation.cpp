#include "runtime/engine/speculation.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace troupe::engine {

namespace {

constexpr double kFirstAcceptance = 0.5;  // expected before anything was seen

// A guess after one that would end the sequence is of no use.
void cut_at_stop(const Sequence& sequence, std::vector<std::uint32_t>& guesses) {
  for (std::uint32_t i = 0; i < guesses.size(); ++i) {
    if (sequence.stops_at(guesses[i], sequence.generated() + i + 1)) return guesses.resize(i + 1);
  }
}

}  // namespace

// The token that is sampled in any case comes after the guesses, and ends the sequence at the latest.
std::uint32_t Speculation::most_guesses(const Sequence& sequence) const {
  return std::min(max_guesses_, sequence.max_length - sequence.length() - 1);
}

double Speculation::acceptance(const State& state, std::size_t kind) const {
  return state.acceptance[kind].rate(overall_[kind].rate(kFirstAcceptance));
}

std::vector<std::uint32_t> Speculation::propose(const Sequence& sequence, State& state) {
  if (uses_draft_) {
    state.kind = kDraftKind;
    const auto guesses = draft_.guesses(sequence);
    return {guesses.begin(), guesses.end()};
  }
  NgramProposer::Proposal proposal = state.ngram.propose(sequence.tokens, most_guesses(sequence));
  if (proposal.matched > 0) state.kind = proposal.matched - NgramProposer::kMinMatch;
  return std::move(proposal.tokens);
}

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
    State& state = states_[sequence.id];
    std::vector<std::uint32_t> tokens = propose(sequence, state);
    cut_at_stop(sequence, tokens);
    if (tokens.empty()) continue;
    const std::uint32_t most = std::min(most_guesses(sequence), static_cast<std::uint32_t>(tokens.size()));
    candidates.push_back({.most = most, .acceptance = acceptance(state, state.kind)});
    guessed.push_back({&item, &state, std::move(tokens)});
  }
  const std::vector<std::uint32_t> lengths = guess_lengths(candidates, decodes, rows_left, cost_);
  for (const std::uint32_t length : lengths) rows_left -= length;
  for (std::size_t i = 0; i < guessed.size(); ++i) {
    State& state = *guessed[i].state;
    if (lengths[i] > 0) {
      give(guessed[i], lengths[i], blocks);
    } else if (rows_left > 0 && candidates[i].most > 0 && state.patience.is_over()) {
      give(guessed[i], 1, blocks);
      --rows_left;
    }
  }
}

// What may be guessed behind the token that the step in flight draws for a decode. That token must come true as well
// for the guesses to be of use.
std::optional<GuessCandidate> Speculation::candidate_ahead(const Sequence& sequence) const {
  const std::uint32_t most = sequence.speculates ? most_guesses(sequence) : 0;
  const auto found = states_.find(sequence.id);
  if (found == states_.end() || most < 2) return std::nullopt;
  NgramProposer::Proposal proposal = found->second.ngram.peek(sequence.tokens, most);
  cut_at_stop(sequence, proposal.tokens);
  if (proposal.tokens.size() < 2) return std::nullopt;
  const double rate = acceptance(found->second, proposal.matched - NgramProposer::kMinMatch);
  return GuessCandidate{.most = static_cast<std::uint32_t>(proposal.tokens.size()) - 1, .acceptance = rate * rate};
}

bool Speculation::would_guess(const Sequences& sequences, std::uint32_t most_rows) const {
  if (max_guesses_ == 0) return false;
  std::vector<GuessCandidate> candidates;
  std::uint32_t decodes = 0;
  for (const auto& [id, sequence] : sequences.running) {
    if (sequence.dropped) continue;
    if (uses_draft_ && sequence.speculates) return true;
    ++decodes;
    const std::optional<GuessCandidate> candidate = candidate_ahead(sequence);
    if (!candidate) continue;
    if (states_.at(id).patience.is_nearly_over()) return true;
    candidates.push_back(*candidate);
  }
  const std::vector<std::uint32_t> lengths = guess_lengths(candidates, decodes, most_rows - decodes, cost_);
  return std::any_of(lengths.begin(), lengths.end(), [](std::uint32_t length) { return length > 0; });
}

void Speculation::go_ahead(const Batch& batch) {
  if (max_guesses_ == 0) return;
  for (const BatchItem& item : batch.items) {
    const Sequence& sequence = *item.sequence;
    if (!sequence.speculates) continue;
    const bool has_candidate = candidate_ahead(sequence).has_value();
    State& state = states_[sequence.id];
    if (has_candidate) state.patience.pass();
    state.ngram.read_on(sequence.tokens);
  }
}

bool Speculation::Patience::is_over() {
  if (++steps_ < most_) return false;
  steps_ = 0;
  most_ = std::min(2 * most_, kMost);
  return true;
}

bool Speculation::ask_draft(Sequences& sequences, schema::DraftRequest::Builder request, std::uint64_t now_ns) {
  if (!uses_draft_ || !draft_.can_ask()) return false;
  std::vector<Sequence*> asked;
  std::vector<GuessCandidate> candidates;
  for (auto& [id, sequence] : sequences.running) {
    if (sequence.phase != Phase::kDecode || sequence.in_flight() || !sequence.speculates) continue;
    if (most_guesses(sequence) == 0 || draft_.asked(sequence) || !draft_.can_know(id)) continue;
    asked.push_back(&sequence);
    candidates.push_back({.most = most_guesses(sequence), .acceptance = acceptance(states_[id], kDraftKind)});
  }
  if (asked.empty()) return tell_draft(sequences, request, now_ns);
  DraftPlan plan = plan_draft(candidates);
  if (plan.guesses == 0) {
    if (!draft_patience_.is_over()) return false;
    // Of one sequence, the one that the draft has the least to read for.
    asked = {*std::min_element(asked.begin(), asked.end(), [&](const Sequence* a, const Sequence* b) {
      return draft_.untold(*a) < draft_.untold(*b);
    })};
    plan = {.guesses = 1, .worth_ns = cost_.ns(1)};
  }
  const std::uint64_t deadline_ns = now_ns + static_cast<std::uint64_t>(plan.worth_ns);
  draft_.ask(asked, plan.guesses, now_ns, deadline_ns, request);
  return true;
}

bool Speculation::tell_draft(Sequences& sequences, schema::DraftRequest::Builder request, std::uint64_t now_ns) {
  if (!draft_.can_tell()) return false;
  std::vector<Sequence*> told;
  for (auto& [id, sequence] : sequences.running) {
    const bool begins = sequence.phase == Phase::kPrefill && sequence.in_flight() && !sequence.dropped;
    const bool is_short = sequence.max_length < sequence.length() + 2;  // no token to guess
    if (begins && !is_short && sequence.speculates && draft_.untold(sequence) == sequence.length() &&
        draft_.can_know(id)) {
      told.push_back(&sequence);
    }
  }
  // It reads in vain where guesses would not pay among all that runs.
  const double expected = overall_[kDraftKind].rate(kFirstAcceptance);
  const std::vector<GuessCandidate> all(sequences.running.size(), {.most = max_guesses_, .acceptance = expected});
  if (told.empty() || plan_draft(all).guesses == 0) return false;
  draft_.tell(told, now_ns, request);
  return true;
}

// The number of guesses for each that brings the most tokens per time, that of the draft included.
Speculation::DraftPlan Speculation::plan_draft(std::span<const GuessCandidate> candidates) const {
  const double decodes = static_cast<double>(candidates.size());
  const double ns_without = cost_.ns(decodes);
  if (ns_without == 0) return {};  // not yet measured
  const double ns_a_guess = std::max(cost_.ns_a_row(), kLeastShare * ns_without);
  DraftPlan best;
  double best_speed = kLeastProfit * decodes / ns_without;
  double tokens = decodes, ns = ns_without;
  for (std::uint32_t guesses = 1; guesses <= max_guesses_; ++guesses) {
    for (const GuessCandidate& candidate : candidates) {
      if (guesses > candidate.most) continue;
      tokens += std::pow(candidate.acceptance, guesses);
      ns += ns_a_guess;
    }
    const double speed = tokens / (ns + draft_.cost().ns(guesses));
    if (speed <= best_speed) continue;
    best_speed = speed;
    best = {.guesses = guesses, .worth_ns = ns_without * tokens / decodes - ns};
  }
  return best;
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
  if (accepted == guesses) state.patience.guess_came_true();
  if (accepted == guesses && state.kind == kDraftKind) draft_patience_.guess_came_true();
  counts_.proposed += guesses;
  counts_.accepted += accepted;
  ++counts_.runs;
}

void Speculation::forget(SequenceId id) {
  states_.erase(id);
  draft_.forget(id);
}

void Speculation::step_took(std::uint32_t rows, std::uint64_t ns) { cost_.observe(rows, static_cast<double>(ns)); }

}  // namespace troupe::engine
