#include "runtime/engine/batch_former.h"

#include <algorithm>
#include <cassert>

namespace troupe::engine {

namespace {

std::uint32_t share_of(std::size_t sequences, std::uint32_t stages) {
  return static_cast<std::uint32_t>((sequences + stages - 1) / stages);
}

// The youngest running sequence behind `sequence` that no step in flight works on; nullptr when there is none.
Sequence* youngest_behind(Sequences& sequences, const Sequence& sequence) {
  for (auto candidate = sequences.running.rbegin(); candidate != sequences.running.rend(); ++candidate) {
    if (candidate->first <= sequence.id) break;
    if (!candidate->second.in_flight) return &candidate->second;
  }
  return nullptr;
}

}  // namespace

BatchFormer::BatchFormer(const BatchLimits& limits, BlockManager& blocks) : limits_(limits), blocks_(blocks) {
  assert(limits.max_batch_tokens > 0 && limits.max_batch_sequences > 0 && limits.pipeline_stages > 0);
}

Batch BatchFormer::form(Sequences& sequences, std::size_t unconfirmed_releases) {
  Batch batch;
  const std::size_t running = sequences.running.size();
  const std::uint32_t most = std::min(limits_.max_batch_sequences, limits_.max_batch_tokens);
  tokens_left_ = limits_.max_batch_tokens;

  // Decodes share the slots among what runs; those who wait may never run, for want of blocks.
  sequences_left_ = std::min(most, share_of(running, limits_.pipeline_stages));
  add_decodes(sequences, batch);
  add_prefills(sequences, batch);

  const auto taken = static_cast<std::uint32_t>(batch.items.size());
  const std::size_t all = running + sequences.waiting.size();
  sequences_left_ = std::min(most, share_of(all, limits_.pipeline_stages)) - taken;
  add_newcomers(sequences, unconfirmed_releases, batch);
  return batch;
}

void BatchFormer::add_decodes(Sequences& sequences, Batch& batch) {
  // Making room erases sequences behind the current one only: the iterator stays valid.
  for (auto current = sequences.running.begin(); current != sequences.running.end(); ++current) {
    if (sequences_left_ == 0 || tokens_left_ == 0) return;
    Sequence& sequence = current->second;
    if (sequence.phase != Phase::kDecode || sequence.in_flight || sequence.awaits_guesses) continue;
    const auto held = static_cast<std::uint32_t>(blocks_.table(sequence.id).size());
    if (make_room(sequences, sequence, batch)) add(sequence, false, held, batch);
  }
}

void BatchFormer::add_prefills(Sequences& sequences, Batch& batch) {
  for (auto& [id, sequence] : sequences.running) {
    if (sequences_left_ == 0 || tokens_left_ == 0) return;
    if (sequence.phase != Phase::kPrefill || sequence.in_flight) continue;
    add(sequence, false, static_cast<std::uint32_t>(blocks_.table(id).size()), batch);
  }
}

std::size_t BatchFormer::max_running() const {
  return std::size_t{std::min(limits_.max_batch_sequences, limits_.max_batch_tokens)} * limits_.pipeline_stages;
}

void BatchFormer::add_newcomers(Sequences& sequences, std::size_t unconfirmed_releases, Batch& batch) {
  while (sequences_left_ > 0 && tokens_left_ > 0 && !sequences.waiting.empty() &&
         sequences.running.size() < max_running() &&
         sequences.running.size() + unconfirmed_releases < 2 * max_running()) {
    const Sequence& next = sequences.waiting.begin()->second;
    // One token more than it has, lest its first decode preempts somebody.
    const std::uint32_t wanted = std::min(next.length() + 1, next.max_length);
    CachedPrefix prefix;
    if (blocks_.caches() && next.prompt_logprobs_complete) {
      prefix = blocks_.find_prefix(next.cache_salt, next.tokens);
      if (is_about_to_be_published(sequences, next, prefix.blocks.size())) return;
    }
    const auto cached = static_cast<std::uint32_t>(prefix.blocks.size());
    if (blocks_.blocks_for(wanted) - cached + prefix.idle > blocks_.free_blocks()) return;
    Sequence& sequence = sequences.begin(next.id);
    blocks_.adopt(sequence.id, prefix);
    sequence.computed = cached * blocks_.block_size();
    const bool grown = blocks_.grow(sequence.id, sequence.length());
    assert(grown);
    static_cast<void>(grown);
    add(sequence, true, 0, batch);
  }
}

// Whether a running sequence computes block `index` of `next`, whose first `index` blocks are in the pages.
bool BatchFormer::is_about_to_be_published(const Sequences& sequences, const Sequence& next, std::size_t index) const {
  const std::size_t end = (index + 1) * blocks_.block_size();
  if (end >= next.length()) return false;  // of no use to it: one token must be left
  return std::any_of(sequences.running.begin(), sequences.running.end(), [&](const auto& entry) {
    const Sequence& other = entry.second;
    return other.phase == Phase::kPrefill && other.length() >= end && other.cache_salt == next.cache_salt &&
           blocks_.published(other.id) == index &&
           std::equal(other.tokens.begin(), other.tokens.begin() + static_cast<std::ptrdiff_t>(end),
                      next.tokens.begin());
  });
}

void BatchFormer::add(Sequence& sequence, bool starts, std::uint32_t first_new_block, Batch& batch) {
  const std::uint32_t count = std::min(sequence.uncomputed(), tokens_left_);
  const bool reaches_the_end = count == sequence.uncomputed();
  batch.items.push_back({.sequence = &sequence,
                         .count = count,
                         .guesses = {},
                         .starts = starts,
                         .sample = reaches_the_end && sequence.length() < sequence.max_length,
                         .first_new_block = first_new_block});
  tokens_left_ -= count;
  --sequences_left_;
}

bool BatchFormer::make_room(Sequences& sequences, Sequence& sequence, Batch& batch) {
  while (!blocks_.grow(sequence.id, sequence.length())) {
    Sequence* victim = youngest_behind(sequences, sequence);
    if (victim == nullptr) return false;
    blocks_.release(victim->id);
    batch.preempted.push_back(victim->id);
    sequences.restart(victim->id);
  }
  return true;
}

}  // namespace troupe::engine
