#include "kernels/cuda/step_buffer.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_ops.h"

namespace troupe::kernels {

template <class T>
std::size_t StepBuffer::append(std::span<const T> list, std::size_t size, std::uint32_t padding) {
  static_assert(sizeof(T) % sizeof(std::uint32_t) == 0 && alignof(T) == alignof(std::uint32_t));
  assert(size >= list.size());
  const std::size_t begin = words_.size();
  words_.resize(begin + size * sizeof(T) / sizeof(std::uint32_t), padding);
  if (!list.empty()) std::memcpy(words_.data() + begin, list.data(), list.size_bytes());
  return begin;
}

void StepBuffer::begin(const StepLists& lists) {
  const std::size_t live_rows = std::max(lists.tokens.size(), lists.positions.size());
  assert(lists.slots.size() == lists.positions.size());
  rows_ = {live_rows, lists.logits_rows.size()};
  make_plans(lists);
  sizes_.clear();
  if (can_be_padded(lists)) pad(lists);

  // What a padded step puts where depends on sizes_ alone: block tables, of any length, come last, with what no
  // repeated work reads.
  words_.clear();
  const auto live = static_cast<std::uint32_t>(live_rows);
  live_rows_ = append(std::span(&live, 1), 1);
  tokens_ = append(lists.tokens, rows_.rows);
  positions_ = append(lists.positions, rows_.rows);
  slots_ = append(lists.slots, rows_.rows, kNoSlot);
  logits_rows_ = append(lists.logits_rows, rows_.logits_rows);
  for (std::size_t i = 0; i < num_plans_; ++i) {
    PlanPlaces& places = plans_[i];
    places.wide = append(std::span<const AttentionItem>(places.plan.wide), places.plan.wide.size());
    places.narrow = append(std::span<const AttentionItem>(places.plan.narrow), places.num_narrow);
    places.merges = append(std::span<const AttentionMerge>(places.plan.merges), places.num_merges);
  }
  block_tables_ = append(lists.attention.block_tables, lists.attention.block_tables.size());

  assert(lists.token_sources.empty() || lists.token_sources.size() == lists.tokens.size());
  token_sources_ = append(lists.token_sources, lists.token_sources.size());
  num_token_sources_ = lists.token_sources.size();

  data_ = nullptr;
  // Block tables grow step by step: the buffer does not.
  std::byte* const to = device_.of(std::bit_ceil(std::max(words_.size(), kLeastWords)) * sizeof(std::uint32_t));
  if (to == nullptr) return;
  memory_.upload(to, words_.data(), words_.size() * sizeof(std::uint32_t));
  data_ = reinterpret_cast<const std::uint32_t*>(to);
}

void StepBuffer::take_tokens(const std::uint32_t* drawn, std::size_t drawn_rows) {
  if (num_token_sources_ == 0 || data_ == nullptr) return;
  const TakeTokensArgs args = {.sources = at(token_sources_),
                               .drawn = drawn,
                               .drawn_rows = static_cast<std::uint32_t>(drawn_rows),
                               .tokens = const_cast<std::uint32_t*>(at(tokens_)),
                               .rows = num_token_sources_};
  TROUPE_GPU_CALL(take_tokens, memory_.gpu().stream(), args);
}

void StepBuffer::make_plans(const StepLists& lists) {
  num_plans_ = lists.shapes.size();
  if (plans_.size() < num_plans_) plans_.resize(num_plans_);
  for (std::size_t i = 0; i < num_plans_; ++i) {
    PlanPlaces& places = plans_[i];
    places.shape = lists.shapes[i];
    places.tiles = paged_attention_tiles(places.shape.head_dim, properties_.shared_bytes_a_block);
    plan_attention(lists.attention, places.shape, places.tiles, properties_.multiprocessors, places.plan);
    places.num_narrow = places.plan.narrow.size();
    places.num_merges = places.plan.merges.size();
    places.piece_rows = places.plan.piece_rows;
  }
}

bool StepBuffer::can_be_padded(const StepLists& lists) const {
  return rows_.rows > 0 && rows_.rows <= std::min(lists.max_rows, kMostPaddedRows) &&
         rows_.logits_rows <= lists.max_logits_rows &&
         std::all_of(plans_.begin(), plans_.begin() + static_cast<std::ptrdiff_t>(num_plans_),
                     [](const PlanPlaces& places) { return places.plan.wide.empty(); });
}

void StepBuffer::pad(const StepLists& lists) {
  rows_.rows = std::min(padded_rows(rows_.rows), lists.max_rows);
  if (rows_.logits_rows > 0) rows_.logits_rows = std::min(padded_rows(rows_.logits_rows), lists.max_logits_rows);
  sizes_ = {static_cast<std::uint32_t>(rows_.rows), static_cast<std::uint32_t>(rows_.logits_rows)};
  for (std::size_t i = 0; i < num_plans_; ++i) {
    PlanPlaces& places = plans_[i];
    places.num_narrow = std::max(std::bit_ceil(places.num_narrow), rows_.rows);
    // Each merge has rows of its own.
    if (places.num_merges > 0) {
      places.num_merges = rows_.rows;
      places.piece_rows = places.num_narrow * attention_rows(places.shape, places.tiles.narrow_lines);
    }
    sizes_.push_back(static_cast<std::uint32_t>(places.num_narrow));
    sizes_.push_back(static_cast<std::uint32_t>(places.num_merges));
  }
}

StepBuffer::Plan StepBuffer::plan(std::size_t shape) const {
  assert(shape < num_plans_);
  const PlanPlaces& places = plans_[shape];
  return {.shape = places.shape,
          .lists = {.wide = list_at<AttentionItem>(places.wide, places.plan.wide.size()),
                    .wide_lines = places.tiles.wide_lines,
                    .narrow = list_at<AttentionItem>(places.narrow, places.num_narrow),
                    .merges = list_at<AttentionMerge>(places.merges, places.num_merges)},
          .piece_rows = places.piece_rows};
}

}  // namespace troupe::kernels
