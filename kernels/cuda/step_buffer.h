#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/workspace.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Steps of up to so many rows may be padded, so that the same launches serve many steps: to 1, 2, 4, 8, 16, 32 and then
// multiples of 32 rows, which kernels of products work on together. Items of attention are padded to powers of two.
constexpr std::size_t kMostPaddedRows = 512;
constexpr std::size_t padded_rows(std::size_t rows) {
  constexpr std::size_t kTogether = 32;
  return rows < kTogether ? std::bit_ceil(rows) : (rows + kTogether - 1) / kTogether * kTogether;
}

// The lists of a step on the device: one piece of memory, filled by one copy a step, with the plans of attention among
// them. Padded rows have token and position 0 and no slot, padded items no rows.
class StepBuffer {
 public:
  // Room for the block tables of many long sequences, from the beginning.
  static constexpr std::size_t kLeastWords = std::size_t{1} << 18;

  // The plan of attention of one shape.
  struct Plan {
    AttentionShape shape;
    AttentionLists lists;  // empty where the pointers below are null
    std::size_t piece_rows = 0;
  };

  explicit StepBuffer(GpuMemory& memory)
      : memory_(memory), properties_(memory.gpu().properties()), device_(memory, "a step's lists") {}

  // Sends the lists; padded, if they say that matrices have room and no attention is wide. Where the device has no
  // memory for them the pointers below are null, and `memory` keeps the error.
  void begin(const StepLists& lists);

  // Puts in the tokens that the step begun last has sources for. drawn: (drawn_rows), on the device.
  void take_tokens(const std::uint32_t* drawn, std::size_t drawn_rows);

  // Of the step begun last, on the device until the next one begins.
  StepRows rows() const { return rows_; }
  // What launches depend on besides matrices; empty for a step that is not padded.
  std::span<const std::uint32_t> sizes() const { return sizes_; }
  // How many rows are not padding; null for a step that is not padded.
  const std::uint32_t* live_rows() const { return sizes_.empty() ? nullptr : at(live_rows_); }
  const std::uint32_t* tokens() const { return at(tokens_); }            // (rows)
  const std::uint32_t* positions() const { return at(positions_); }      // (rows)
  const std::uint32_t* slots() const { return at(slots_); }              // (rows)
  const std::uint32_t* logits_rows() const { return at(logits_rows_); }  // (logits_rows)
  const std::uint32_t* block_tables() const { return at(block_tables_); }
  Plan plan(std::size_t shape) const;

 private:
  struct PlanPlaces {
    AttentionPlan plan;
    AttentionShape shape;
    AttentionTiles tiles;
    std::size_t wide = 0;
    std::size_t narrow = 0;
    std::size_t merges = 0;
    // With padding.
    std::size_t num_narrow = 0;
    std::size_t num_merges = 0;
    std::size_t piece_rows = 0;
  };

  void make_plans(const StepLists& lists);
  bool can_be_padded(const StepLists& lists) const;
  void pad(const StepLists& lists);
  // Appends a list to words_, with `padding` up to `size` elements, and returns where it begins.
  template <class T>
  std::size_t append(std::span<const T> list, std::size_t size, std::uint32_t padding = 0);
  const std::uint32_t* at(std::size_t word) const { return data_ == nullptr ? nullptr : data_ + word; }
  template <class T>
  std::span<const T> list_at(std::size_t word, std::size_t size) const {
    return {reinterpret_cast<const T*>(at(word)), data_ == nullptr ? 0 : size};
  }

  GpuMemory& memory_;
  const GpuProperties properties_;
  Workspace device_;
  const std::uint32_t* data_ = nullptr;  // words_ on the device
  std::vector<std::uint32_t> words_;
  std::vector<PlanPlaces> plans_;  // (at least num_plans_); their lists keep the memory
  std::size_t num_plans_ = 0;
  StepRows rows_;
  std::vector<std::uint32_t> sizes_;
  // In words_.
  std::size_t live_rows_ = 0;
  std::size_t tokens_ = 0;
  std::size_t positions_ = 0;
  std::size_t slots_ = 0;
  std::size_t logits_rows_ = 0;
  std::size_t block_tables_ = 0;
  std::size_t token_sources_ = 0;
  std::size_t num_token_sources_ = 0;
};

}  // namespace troupe::kernels
