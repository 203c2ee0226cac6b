#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/tensor.h"
#include "runtime/base/result.h"
#include "runtime/model/expert_dispatch.h"

namespace troupe::model {

// The way from a rank to the expert shards of its stage and back, one layer at a time. Thread-safety: one thread, that
// of the rank.
class RemoteExperts {
 public:
  virtual ~RemoteExperts() = default;

  // Sends every part's rows of `normed`, (tokens, hidden_size) in the host's memory, to its expert shard, and returns
  // before they are computed. Needs its arguments no more when it returns. Errors: who cannot be reached.
  virtual Result<void> dispatch(std::uint32_t layer, kernels::ConstMatrixF32 normed,
                                std::span<const DispatchedRows> parts) = 0;

  // What the expert shard of part `part` of the latest dispatch has made of its rows: (parts[part].rows.size(),
  // hidden_size), for each row the weighted sum over its experts there; valid until the next dispatch. Waits for it,
  // for some bounded time. Asked once for each part, in order. Errors: what the shard answers; that it does not.
  virtual Result<kernels::ConstMatrixF32> combine(std::size_t part) = 0;
};

}  // namespace troupe::model
