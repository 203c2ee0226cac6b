#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "runtime/fabric/buffer.h"
#include "runtime/fabric/fabric_context.h"
#include "runtime/fabric/frame.h"

namespace troupe::fabric {

class Endpoint;

// Counts what this node holds of one peer's lane, and says when credit is to be returned.
// Thread-safety: buffer_released() and hold() from any thread.
class CreditReturn final : public ReleaseListener {
 public:
  CreditReturn(std::weak_ptr<Endpoint> endpoint, Lane lane, const FabricContext& context);

  void buffer_released(std::uint64_t charge) noexcept override;
  void hold(std::uint64_t charge);
  // Of the fabric's thread: what to return now.
  std::uint64_t take();
  // The peer waits: take() as soon as anything is released. Returns whether something is there already.
  bool want();
  // Received and not returned yet; the fabric's thread only.
  std::uint64_t outstanding() const { return outstanding_; }

 private:
  std::weak_ptr<Endpoint> endpoint_;
  Lane lane_;
  std::uint64_t threshold_;
  std::shared_ptr<TaskQueue> tasks_;
  std::shared_ptr<Counters> counters_;
  std::atomic<std::uint64_t> released_{0};
  std::atomic<bool> wanted_{false};
  std::uint64_t outstanding_ = 0;
};

}  // namespace troupe::fabric
