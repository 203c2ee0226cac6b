#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <caf/scoped_actor.hpp>

#include "runtime/fabric/message.h"
#include "runtime/model/remote_experts.h"
#include "schema/expert.capnp.h"

namespace troupe {

struct ExpertRequestsOptions {
  std::vector<caf::actor> experts;  // of the stage, by their number
  std::uint32_t replica = 0;
  std::uint64_t epoch = 0;
  std::chrono::milliseconds timeout;  // from the sending of a layer's rows until all answers are there
};

// Asks the expert actors of a stage on behalf of one rank: each layer's rows go out as Dispatch to all of them before
// the first Combine is waited for. For one epoch. Thread-safety: one thread, which may block; it is an actor of its own
// there, so that the rank's mailbox is left alone.
class ExpertRequests final : public model::RemoteExperts {
 public:
  ExpertRequests(caf::actor_system& system, ExpertRequestsOptions options);

  // Of the dispatches from now on.
  void begin_step(std::uint64_t step) { step_ = step; }

  Result<void> dispatch(std::uint32_t layer, kernels::ConstMatrixF32 normed,
                        std::span<const model::DispatchedRows> parts) override;
  Result<kernels::ConstMatrixF32> combine(std::size_t part) override;

 private:
  using Clock = std::chrono::steady_clock;

  struct Asked {
    std::uint32_t expert = 0;
    std::size_t rows = 0;
    caf::message_id request;
    fabric::Message<schema::Combine> answer;  // once it is there: what combine() returned lies in its attachment
  };

  fabric::Message<schema::Dispatch> message_for(const model::DispatchedRows& part,
                                                kernels::ConstMatrixF32 normed) const;
  Result<fabric::Message<schema::Combine>> receive(const Asked& asked);

  const ExpertRequestsOptions options_;
  caf::scoped_actor self_;
  std::uint64_t step_ = 0;
  // Of the latest dispatch.
  std::uint32_t layer_ = 0;
  std::size_t cols_ = 0;
  Clock::time_point deadline_;
  std::vector<Asked> asked_;
};

}  // namespace troupe
