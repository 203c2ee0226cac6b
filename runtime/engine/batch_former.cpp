#include "runtime/engine/batch_former.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <set>
#include <span>

namespace troupe::engine {

namespace {

std::uint32_t share_of(std::size_t sequences, std::uint32_t stages) {
  return static_cast<std::uint32_t>((sequences + stages - 1) / stages);
}

// Whether the token that the step in flight draws is the last that its length allows.
bool ends_in_flight(const Sequence& sequence) { return sequence.length() + 1 >= sequence.max_length; }

// Of those that run and are in no step, the last in rank behind `sequence`; nullptr when there is none.
Sequence* last_behind(Sequences& sequences, const Sequence& sequence) {
  Sequence* last = nullptr;
  for (auto& [id, candidate] : sequences.running) {
    if (candidate.in_flight() || !ranks_before(sequence, candidate)) continue;
    if (last == nullptr || ranks_before(*last, candidate)) last = &candidate;
  }
  return last;
}

}  // namespace

BatchFormer::BatchFormer(const BatchLimits& limits, BlockManager& blocks, SwapSpace& swap, const StepBudget& budget)
    : limits_(limits), blocks_(blocks), swap_(swap), budget_(budget) {
  assert(limits.max_batch_tokens > 0 && limits.max_batch_sequences > 0 && limits.pipeline_stages > 0);
}

Batch BatchFormer::form(Sequences& sequences, std::size_t unconfirmed_releases) {
  Batch batch;
  const std::uint32_t most = std::min(limits_.max_batch_sequences, limits_.max_batch_tokens);
  tokens_left_ = limits_.max_batch_tokens;
  let_urgent_in(sequences, unconfirmed_releases, batch);
  const std::vector<Sequence*> ranked = sequences.ranked();

  // Decodes share the slots among what runs; those who wait may never run, for want of blocks.
  const std::size_t running = ranked.size();
  sequences_left_ = std::min(most, share_of(running, limits_.pipeline_stages));
  add_decodes(ranked, sequences, batch);
  prefill_left_ = prefill_budget(ranked, sequences.waiting.size(), batch);
  const std::size_t reached = add_prefills(ranked, sequences, batch);

  const auto taken = static_cast<std::uint32_t>(batch.items.size());
  const std::size_t all = running + sequences.waiting.size();
  sequences_left_ = std::min(most, share_of(all, limits_.pipeline_stages)) - taken;
  for (Sequence* const entered : std::span(ranked).subspan(reached)) {
    const bool can_start = entered->phase == Phase::kPrefill && !entered->on_shards;
    if (can_start && sequences_left_ > 0 && tokens_left_ > 0 && prefill_left_ > 0)
      add_prefill(*entered, sequences, batch);
  }
  add_newcomers(sequences, unconfirmed_releases, batch);
  return batch;
}

bool BatchFormer::can_go_ahead(const Sequences& sequences, std::size_t unconfirmed_releases) const {
  std::uint32_t going_on = 0, new_blocks = 0;
  bool some_leave = false;
  for (const auto& [id, sequence] : sequences.running) {
    if (!sequence.dropped && !(sequence.in_flight() && sequence.draws_one)) return false;
    if (sequence.dropped || ends_in_flight(sequence)) {
      some_leave = true;
      continue;
    }
    ++going_on;
    const auto held = static_cast<std::uint32_t>(blocks_.table(id).size());
    new_blocks += std::max(held, blocks_.blocks_for(sequence.length() + 1)) - held;
  }
  if (going_on == 0 || new_blocks > blocks_.free_blocks()) return false;
  const Sequence* const next = sequences.next();
  return next == nullptr || (!some_leave && !could_enter(sequences, *next, unconfirmed_releases));
}

// Whether `next` could have begun, at the expense of less urgent ones or not, if nothing was in flight.
bool BatchFormer::could_enter(const Sequences& sequences, const Sequence& next,
                              std::size_t unconfirmed_releases) const {
  const bool goes_first = std::any_of(sequences.running.begin(), sequences.running.end(),
                                      [&](const auto& entry) { return entry.second.priority > next.priority; });
  if (goes_first) return true;
  if (!has_slot(sequences)) return false;
  if (!shards_have_room(sequences, unconfirmed_releases)) return true;
  const std::optional<CachedPrefix> prefix = prefix_of(sequences, next);
  return !prefix || free_blocks_for(next, *prefix) <= blocks_.free_blocks();
}

Batch BatchFormer::form_ahead(Sequences& sequences) {
  Batch batch;
  for (Sequence* const sequence : sequences.ranked()) {
    if (sequence->dropped || ends_in_flight(*sequence)) continue;
    const auto held = static_cast<std::uint32_t>(blocks_.table(sequence->id).size());
    const bool grown = blocks_.grow(sequence->id, sequence->length() + 1);
    assert(grown);
    static_cast<void>(grown);
    batch.items.push_back(
        {.sequence = sequence, .count = 1, .guesses = {}, .ahead = true, .sample = true, .first_new_block = held});
  }
  return batch;
}

// Newcomers that go before something that runs enter first: what their blocks and slots would be taken by is preempted,
// and their prompts come before those of less urgent priorities.
void BatchFormer::let_urgent_in(Sequences& sequences, std::size_t unconfirmed_releases, Batch& batch) {
  while (const Sequence* next = sequences.next()) {
    if (!shards_have_room(sequences, unconfirmed_releases)) return;
    const std::optional<CachedPrefix> prefix = prefix_of(sequences, *next);
    if (!prefix) return;
    if (has_slot(sequences) && free_blocks_for(*next, *prefix) <= blocks_.free_blocks()) {
      const bool goes_first = std::any_of(sequences.running.begin(), sequences.running.end(), [&](const auto& entry) {
        return entry.second.phase == Phase::kPrefill && entry.second.priority > next->priority;
      });
      if (!goes_first) return;
      enter(*next, *prefix, sequences);
      continue;
    }
    const std::vector<Sequence*> victims = less_urgent_to_go(sequences, *next, *prefix);
    if (victims.empty()) return;
    for (Sequence* const victim : victims) preempt(*victim, sequences, batch);
    enter(*next, cached_prefix(*next), sequences);  // less than before, if parts of it were evicted
  }
}

// The running sequences of less urgent priorities that make room for `next` by going, the last in rank first; none if
// there would not be room without all of them.
std::vector<Sequence*> BatchFormer::less_urgent_to_go(Sequences& sequences, const Sequence& next,
                                                      const CachedPrefix& prefix) const {
  std::vector<Sequence*> ranked = sequences.ranked();
  std::vector<Sequence*> victims;
  const std::set<std::uint32_t> wanted(prefix.blocks.begin(), prefix.blocks.end());
  std::map<std::uint32_t, std::uint32_t> let_go;  // block -> victims that hold it
  std::uint32_t freed = 0;
  const auto enough = [&] {
    const bool slot = sequences.running.size() - victims.size() < max_running();
    return slot && free_blocks_for(next, prefix) <= blocks_.free_blocks() + freed;
  };
  for (auto candidate = ranked.rbegin(); candidate != ranked.rend() && !enough(); ++candidate) {
    if ((*candidate)->priority <= next.priority) break;
    if ((*candidate)->in_flight()) continue;
    victims.push_back(*candidate);
    for (const std::uint32_t block : blocks_.table((*candidate)->id)) {
      // A block of the prefix stays in use.
      if (++let_go[block] == blocks_.references(block) && !wanted.contains(block)) ++freed;
    }
  }
  if (!enough()) victims.clear();
  return victims;
}

void BatchFormer::add_decodes(const std::vector<Sequence*>& ranked, Sequences& sequences, Batch& batch) {
  for (Sequence* const sequence : ranked) {
    if (sequences_left_ == 0 || tokens_left_ == 0) return;
    // Making room for those before it may have sent it back to waiting.
    if (sequence->phase != Phase::kDecode || sequence->in_flight() || sequence->awaits_guesses) continue;
    const auto held = static_cast<std::uint32_t>(blocks_.table(sequence->id).size());
    if (make_room(sequences, *sequence, batch)) add(*sequence, tokens_left_, held, batch);
  }
}

// What the step may take of prompts. Answers whose tokens are under way in other steps of the pipeline are held up by
// this one as well.
std::uint32_t BatchFormer::prefill_budget(const std::vector<Sequence*>& ranked, std::size_t queued,
                                          const Batch& batch) const {
  std::uint32_t decodes = 0;
  for (const BatchItem& item : batch.items) decodes += item.count;
  if (decodes > 0 && budget_.wants_decodes_alone()) return 0;
  if (decodes == 0) {
    const auto answering = std::count_if(ranked.begin(), ranked.end(),
                                         [](const Sequence* sequence) { return sequence->phase == Phase::kDecode; });
    decodes = share_of(static_cast<std::size_t>(answering), limits_.pipeline_stages);
  }
  const auto begun = std::count_if(ranked.begin(), ranked.end(),
                                   [](const Sequence* sequence) { return sequence->phase == Phase::kPrefill; });
  const std::uint32_t waiting = share_of(static_cast<std::size_t>(begun) + queued, limits_.pipeline_stages);
  return budget_.prefill_tokens(decodes, waiting, limits_.max_batch_tokens);
}

// Returns how many of `ranked` had their turn.
std::size_t BatchFormer::add_prefills(const std::vector<Sequence*>& ranked, const Sequences& sequences, Batch& batch) {
  for (std::size_t i = 0; i < ranked.size(); ++i) {
    if (sequences_left_ == 0 || tokens_left_ == 0 || prefill_left_ == 0) return i;
    if (ranked[i]->phase == Phase::kPrefill && !ranked[i]->in_flight()) add_prefill(*ranked[i], sequences, batch);
  }
  return ranked.size();
}

std::size_t BatchFormer::max_running() const {
  return std::size_t{std::min(limits_.max_batch_sequences, limits_.max_batch_tokens)} * limits_.pipeline_stages;
}

bool BatchFormer::shards_have_room(const Sequences& sequences, std::size_t unconfirmed_releases) const {
  return sequences.running.size() + unconfirmed_releases < 2 * max_running();
}

void BatchFormer::add_newcomers(Sequences& sequences, std::size_t unconfirmed_releases, Batch& batch) {
  while (sequences_left_ > 0 && tokens_left_ > 0 && prefill_left_ > 0 && has_slot(sequences) &&
         shards_have_room(sequences, unconfirmed_releases)) {
    const Sequence* const next = sequences.next();
    if (next == nullptr) return;
    const std::optional<CachedPrefix> prefix = prefix_of(sequences, *next);
    if (!prefix || free_blocks_for(*next, *prefix) > blocks_.free_blocks()) return;
    add_prefill(enter(*next, *prefix, sequences), sequences, batch);
  }
}

// What of it is in the pages already.
CachedPrefix BatchFormer::cached_prefix(const Sequence& next) const {
  if (!blocks_.caches() || !next.prompt_logprobs_complete) return {};
  return blocks_.find_prefix(next.cache_salt, next.tokens);
}

// The same; nothing when it is to wait, because a running sequence computes its next block, or because a step that is
// not back copies what is kept of it.
std::optional<CachedPrefix> BatchFormer::prefix_of(const Sequences& sequences, const Sequence& next) const {
  if (const SwapSpace::Kept* const kept = swap_.find(next.id); kept != nullptr && !kept->settled) return std::nullopt;
  CachedPrefix prefix = cached_prefix(next);
  const bool may_share = blocks_.caches() && next.prompt_logprobs_complete;
  if (may_share && is_being_computed(sequences, next, prefix.blocks.size())) return std::nullopt;
  return prefix;
}

// Blocks that must be free, idle ones of its prefix included, for it to enter.
std::uint32_t BatchFormer::free_blocks_for(const Sequence& next, const CachedPrefix& prefix) const {
  // One token more than it has, lest its first decode preempts somebody.
  const std::uint32_t wanted = std::min(next.length() + 1, next.max_length);
  return blocks_.blocks_for(wanted) - static_cast<std::uint32_t>(prefix.blocks.size()) + prefix.idle;
}

// REQUIRES: so many blocks are free.
Sequence& BatchFormer::enter(const Sequence& next, const CachedPrefix& prefix, Sequences& sequences) {
  Sequence& sequence = sequences.begin(next.id);
  blocks_.adopt(sequence.id, prefix);
  sequence.computed = sequence.settled = static_cast<std::uint32_t>(prefix.blocks.size()) * blocks_.block_size();
  const bool grown = blocks_.grow(sequence.id, sequence.length());
  assert(grown);
  static_cast<void>(grown);
  return sequence;
}

// Whether a running sequence computes block `index` of `next`, whose first `index` blocks are in the pages; or all that
// `next` has in that block but its last token, which is left to itself.
bool BatchFormer::is_being_computed(const Sequences& sequences, const Sequence& next, std::size_t index) const {
  const std::size_t start = index * blocks_.block_size();
  const auto end = std::min<std::size_t>(start + blocks_.block_size(), next.length() - 1);
  if (end <= start) return false;
  if (end < blocks_.block_size()) return false;  // a prompt shorter than a block is not worth waiting for a step
  return std::any_of(sequences.running.begin(), sequences.running.end(), [&](const auto& entry) {
    const Sequence& other = entry.second;
    return other.phase == Phase::kPrefill && other.length() >= end && other.settled < end &&
           other.cache_salt == next.cache_salt &&
           std::equal(other.tokens.begin(), other.tokens.begin() + static_cast<std::ptrdiff_t>(end),
                      next.tokens.begin());
  });
}

void BatchFormer::add(Sequence& sequence, std::uint32_t most_tokens, std::uint32_t first_new_block, Batch& batch) {
  const std::uint32_t count = std::min(sequence.uncomputed(), most_tokens);
  const bool reaches_the_end = count == sequence.uncomputed();
  batch.items.push_back({.sequence = &sequence,
                         .count = count,
                         .guesses = {},
                         .starts = !sequence.on_shards,
                         .sample = reaches_the_end && sequence.length() < sequence.max_length,
                         .first_new_block = first_new_block});
  tokens_left_ -= count;
  --sequences_left_;
}

void BatchFormer::add_prefill(Sequence& sequence, const Sequences& sequences, Batch& batch) {
  const std::uint32_t most = std::min(tokens_left_, prefill_left_);
  const bool starts = !sequence.on_shards;
  const bool swapped_in = starts && swap_in(sequence, batch);
  if (starts && !swapped_in) copy_shared_part(sequence, sequences, batch);
  add(sequence, most, starts ? 0 : static_cast<std::uint32_t>(blocks_.table(sequence.id).size()), batch);
  batch.items.back().swapped_in = swapped_in;
  prefill_left_ -= batch.items.back().count;
}

// Takes back what is kept of a sequence that starts again. Its blocks beside the pages are free at once: whoever gets
// them writes there after this copy.
bool BatchFormer::swap_in(Sequence& sequence, Batch& batch) {
  const SwapSpace::Kept* const kept = swap_.find(sequence.id);
  if (kept == nullptr) return false;
  const std::uint32_t found = sequence.computed / blocks_.block_size();
  // Of no use when what it shared has left the pages, or when all of it is there again.
  const bool continues = found >= kept->first && kept->tokens > sequence.computed;
  if (continues) {
    const auto table = blocks_.table(sequence.id);
    for (std::size_t i = found - kept->first; i < kept->blocks.size(); ++i) {
      batch.copies.push_back({kept->blocks[i], table[kept->first + i]});
    }
    sequence.computed = kept->tokens;
  }
  swap_.release(sequence.id);
  return continues;
}

// Copies what another sequence, the one that has most of it, has computed of the block in which `sequence` starts.
void BatchFormer::copy_shared_part(Sequence& sequence, const Sequences& sequences, Batch& batch) {
  if (!blocks_.caches() || !sequence.prompt_logprobs_complete) return;
  const std::uint32_t start = sequence.computed, index = start / blocks_.block_size();
  const auto table = blocks_.table(sequence.id);
  std::uint32_t block = 0, longest = 0;
  for (const auto& [id, other] : sequences.running) {
    if (other.settled <= start || other.cache_salt != sequence.cache_salt) continue;
    const auto others = blocks_.table(id);
    // Who holds the same block before this one began alike.
    if (index > 0 && others[index - 1] != table[index - 1]) continue;
    // One token at least is left: its logits are still wanted.
    const std::uint32_t end = std::min({start + blocks_.block_size(), other.settled, sequence.length() - 1});
    std::uint32_t same = 0;
    while (start + same < end && other.tokens[start + same] == sequence.tokens[start + same]) ++same;
    if (same <= longest) continue;
    longest = same;
    block = others[index];
  }
  if (longest == 0 || !copying_pays(1, longest, sequences)) return;
  batch.copies.push_back({block, table[index]});
  sequence.computed += longest;
}

bool BatchFormer::make_room(Sequences& sequences, Sequence& sequence, Batch& batch) {
  while (!blocks_.grow(sequence.id, sequence.length())) {
    Sequence* victim = last_behind(sequences, sequence);
    if (victim == nullptr) return false;
    preempt(*victim, sequences, batch);
  }
  return true;
}

void BatchFormer::preempt(Sequence& victim, Sequences& sequences, Batch& batch) {
  swap_out(victim, sequences, batch);
  blocks_.release(victim.id);
  batch.preempted.push_back(victim.id);
  sequences.restart(victim.id);
}

// Keeps what only the victim has, where that is cheaper than to compute it anew.
void BatchFormer::swap_out(const Sequence& victim, const Sequences& sequences, Batch& batch) {
  // What has not started has computed nothing, and log-probabilities of a prompt can only be had by computing it.
  if (!victim.on_shards || !victim.prompt_logprobs_complete) return;
  const auto table = blocks_.table(victim.id).first(blocks_.blocks_for(victim.computed));
  const auto own =
      std::find_if(table.begin(), table.end(), [&](std::uint32_t block) { return blocks_.references(block) == 1; });
  const auto first = static_cast<std::uint32_t>(own - table.begin());
  const auto count = static_cast<std::uint32_t>(table.end() - own);
  if (count == 0 || count > swap_.free_blocks()) return;
  if (!copying_pays(2 * count, victim.computed - first * blocks_.block_size(), sequences)) return;
  const SwapSpace::Kept& kept = swap_.keep(victim.id, first, count, victim.computed);
  for (std::uint32_t i = 0; i < count; ++i) batch.copies.push_back({table[first + i], kept.blocks[i]});
  batch.swapped_out.push_back(victim.id);
}

// Whether to copy blocks rather than to compute tokens. What a copy takes is not known before the first one, which is
// therefore made; what computing takes is known from the start.
bool BatchFormer::copying_pays(std::uint32_t blocks, std::uint32_t tokens, const Sequences& sequences) const {
  const auto decodes = std::min<std::size_t>(sequences.running.size() - 1, limits_.max_batch_sequences);
  return budget_.copy_ns(blocks) <
         budget_.prefill_ns(tokens, static_cast<std::uint32_t>(decodes), limits_.max_batch_tokens);
}

}  // namespace troupe::engine
