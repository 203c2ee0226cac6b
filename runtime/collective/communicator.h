#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe::collective {

// Exchanges float32 tensors, in memory that the communicator is made for, between the ranks of one group. Every rank
// calls the same operations in the same order with the same sizes; a call returns when this rank's part is done, or
// where that is in the memory of a device, when it is queued there behind everything before it: what becomes of it
// then, check() tells after the device was waited for.
//
// Determinism: sums are taken in rank order, so that every rank holds the same bits and a result does not depend
// on who was first.
// Errors: a peer that is gone (kUnavailable), nothing heard until the deadline (kDeadlineExceeded), or the group was
// aborted (kCancelled). After an error the group is of no more use: the caller gives up the step.
// Thread-safety: one thread a rank; check() and abort() from any thread.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual std::uint32_t rank() const = 0;
  virtual std::uint32_t world_size() const = 0;

  // data = sum over ranks of data, in place.
  virtual Result<void> all_reduce(std::span<float> data) = 0;

  // out = in of rank 0, in of rank 1, ...; out.size() == world_size() * in.size().
  virtual Result<void> all_gather(std::span<const float> in, std::span<float> out) = 0;

  // out = this rank's part of the sum over ranks of in; in.size() == world_size() * out.size().
  virtual Result<void> reduce_scatter(std::span<const float> in, std::span<float> out) = 0;

  // Rank i's part j goes to rank j's part i; in.size() == out.size(), divisible by world_size().
  virtual Result<void> all_to_all(std::span<const float> in, std::span<float> out) = 0;

  // out on rank `root` = in of rank 0, in of rank 1, ...; out is empty elsewhere.
  virtual Result<void> gather(std::span<const float> in, std::span<float> out, std::uint32_t root) = 0;

  // What the group has failed of, as far as this rank knows by now: a peer that is gone, an abort, or what befell
  // operations that had returned. Waits for nothing.
  virtual Result<void> check() = 0;

  // Ends the group: every operation of this rank, waiting or yet to come, gives kCancelled with this reason, and the
  // other ranks learn of it as soon as the transport can tell them.
  virtual void abort(std::string_view reason) = 0;
};

}  // namespace troupe::collective
