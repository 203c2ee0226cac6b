#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/team.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// Operations a second of all cores together; a multiply-add is two of them. 0 = the machine has no such unit.
struct MultiplyAddPeaks {
  double fp32 = 0;      // fused multiply-add, of the widest vectors
  double int8 = 0;      // vectors: VNNI, or else vpmaddubsw
  double bf16 = 0;      // vectors: products of pairs
  double amx_bf16 = 0;  // tiles
  double amx_int8 = 0;
};

// The bounds that the roofline model (Williams, Waterman, Patterson 2009) sets against a program: what these cores can
// read from memory and multiply at most, here and now. On a shared machine that changes from one minute to the next, so
// that one measures it beside the program, again and again.
//
// Thread-safety: one thread; with several cores it should be pinned to the first of them, as the shards' threads are.
class Roofline {
 public:
  // Takes several times the last-level cache of memory. Errors: a core that this process may not use; no memory.
  static Result<std::unique_ptr<Roofline>> make(const std::vector<int>& cores);
  ~Roofline();
  Roofline(const Roofline&) = delete;
  Roofline& operator=(const Roofline&) = delete;

  // Bytes a second that all cores together read, each its own part in order. Takes some hundredths of a second.
  double read_bandwidth();

  // The same in registers only: no memory, no dependency that waits. Takes some tenths of a second.
  MultiplyAddPeaks peaks();

 private:
  Roofline() = default;

  std::unique_ptr<kernels::Team> team_;
  std::byte* memory_ = nullptr;
  std::size_t memory_bytes_ = 0;
};

}  // namespace troupe::cluster
