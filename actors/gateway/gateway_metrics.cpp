#include "actors/gateway/gateway_metrics.h"

namespace troupe {

GatewayMetrics::GatewayMetrics(Metrics& metrics)
    : prompt_tokens(metrics.counter("troupe_prompt_tokens_total", "Prompt tokens of answered requests.")),
      generated_tokens(metrics.counter("troupe_generated_tokens_total", "Tokens generated for clients.")),
      cancelled(metrics.counter("troupe_requests_cancelled_total",
                                "Requests whose client went away before the answer was complete.")),
      in_flight(metrics.gauge("troupe_requests_in_flight", "Prompts that wait for or receive tokens.")),
      time_to_first_token_seconds(metrics.histogram("troupe_time_to_first_token_seconds",
                                                    "From the arrival of a request to its first token.",
                                                    latency_bounds_seconds())),
      inter_token_seconds(metrics.histogram("troupe_inter_token_latency_seconds",
                                            "Between one token and the next of the same choice.",
                                            latency_bounds_seconds())),
      end_to_end_seconds(metrics.histogram("troupe_request_duration_seconds",
                                           "From the arrival of a request to the end of its answer.",
                                           latency_bounds_seconds())),
      queue_seconds(metrics.histogram("troupe_request_queue_seconds",
                                      "From the scheduler's receipt of a prompt to its first step.",
                                      latency_bounds_seconds())),
      metrics_(metrics) {}

void GatewayMetrics::count_response(const std::string& endpoint, unsigned status) {
  metrics_
      .counter("troupe_http_requests_total", "HTTP requests answered.",
               {{"endpoint", endpoint}, {"status", std::to_string(status)}})
      .Increment();
  if (status < 400) return;
  metrics_
      .counter("troupe_request_errors_total", "Requests answered with an error, and streams that ended with one.",
               {{"kind", status < 500 ? "client" : "server"}})
      .Increment();
}

void GatewayMetrics::count_routed(std::uint32_t replica) {
  metrics_
      .counter("troupe_routed_requests_total", "Requests sent to each replica.", {{"replica", std::to_string(replica)}})
      .Increment();
}

void GatewayMetrics::count_broken_stream() {
  metrics_
      .counter("troupe_request_errors_total", "Requests answered with an error, and streams that ended with one.",
               {{"kind", "stream"}})
      .Increment();
}

}  // namespace troupe
