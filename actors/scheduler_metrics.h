#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/metrics.h"
#include "runtime/engine/engine.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// What the scheduler counts and shows, as troupe_scheduler_...; used by one thread.
class SchedulerMetrics {
 public:
  // `replica` labels every metric.
  explicit SchedulerMetrics(std::uint32_t replica);

  void step_took(double seconds) { step_seconds_.Observe(seconds); }
  void request_waited(double seconds) { queue_seconds_.Observe(seconds); }
  void dropped_stale_result() { stale_results_.Increment(); }
  void gave_up_on_draft() { late_guesses_.Increment(); }

  // Everything, with the engine's numbers of this moment.
  void write(const engine::Engine& engine, schema::Stats::Builder stats);

 private:
  const std::string replica_;
  Metrics metrics_;
  prometheus::Histogram& step_seconds_;
  prometheus::Histogram& queue_seconds_;
  prometheus::Counter& stale_results_;
  prometheus::Counter& late_guesses_;
};

}  // namespace troupe
