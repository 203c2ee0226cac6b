#include "kernels/cuda/step_buffer.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace troupe::kernels {
namespace {

// What block tables of many long sequences take: the buffer rarely grows.
constexpr std::size_t kLeastWords = std::size_t{1} << 18;

}  // namespace

template <class T>
std::size_t StepBuffer::append(std::span<const T> list) {
  static_assert(sizeof(T) % sizeof(std::uint32_t) == 0 && alignof(T) == alignof(std::uint32_t));
  const std::size_t begin = words_.size();
  words_.resize(begin + list.size_bytes() / sizeof(std::uint32_t));
  if (!list.empty()) std::memcpy(words_.data() + begin, list.data(), list.size_bytes());
  return begin;
}

void StepBuffer::begin(const StepLists& lists) {
  rows_ = std::max(lists.tokens.size(), lists.positions.size());
  assert(lists.slots.size() == lists.positions.size());
  words_.clear();
  tokens_ = append(lists.tokens);
  positions_ = append(lists.positions);
  slots_ = append(lists.slots);
  logits_rows_ = append(lists.logits_rows);
  num_plans_ = lists.shapes.size();
  if (plans_.size() < num_plans_) plans_.resize(num_plans_);
  for (std::size_t i = 0; i < num_plans_; ++i) {
    PlanPlaces& places = plans_[i];
    places.shape = lists.shapes[i];
    plan_attention(lists.attention, places.shape, multiprocessors_, places.plan);
    places.wide = append(std::span<const AttentionItem>(places.plan.wide));
    places.narrow = append(std::span<const AttentionItem>(places.plan.narrow));
    places.merges = append(std::span<const AttentionMerge>(places.plan.merges));
  }
  block_tables_ = append(lists.attention.block_tables);
  data_ = nullptr;
  if (words_.empty()) return;
  std::byte* const to = device_.of(std::max(words_.size(), kLeastWords) * sizeof(std::uint32_t));
  if (to == nullptr) return;
  memory_.upload(to, words_.data(), words_.size() * sizeof(std::uint32_t));
  data_ = reinterpret_cast<const std::uint32_t*>(to);
}

StepBuffer::Plan StepBuffer::plan(std::size_t shape) const {
  assert(shape < num_plans_);
  const PlanPlaces& places = plans_[shape];
  return {.shape = places.shape,
          .wide = reinterpret_cast<const AttentionItem*>(at(places.wide)),
          .num_wide = places.plan.wide.size(),
          .narrow = reinterpret_cast<const AttentionItem*>(at(places.narrow)),
          .num_narrow = places.plan.narrow.size(),
          .merges = reinterpret_cast<const AttentionMerge*>(at(places.merges)),
          .num_merges = places.plan.merges.size(),
          .pieces = places.plan.pieces};
}

}  // namespace troupe::kernels
