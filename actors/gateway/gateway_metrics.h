#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "runtime/base/metrics.h"

namespace troupe {

// What a gateway counts. Thread-safe; lives no longer than the Metrics it was made from.
class GatewayMetrics {
 public:
  explicit GatewayMetrics(Metrics& metrics);

  // `endpoint` is one of a fixed list, never text from outside.
  void count_response(const std::string& endpoint, unsigned status);
  void count_routed(std::uint32_t replica);
  // An answer that failed after its status was out.
  void count_broken_stream();

  prometheus::Counter& prompt_tokens;
  prometheus::Counter& generated_tokens;
  prometheus::Counter& cancelled;
  prometheus::Gauge& in_flight;
  prometheus::Histogram& time_to_first_token_seconds;
  prometheus::Histogram& inter_token_seconds;
  prometheus::Histogram& end_to_end_seconds;
  prometheus::Histogram& queue_seconds;

 private:
  Metrics& metrics_;
};

}  // namespace troupe
