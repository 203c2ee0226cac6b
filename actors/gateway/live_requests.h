#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "actors/gateway/api_error.h"
#include "actors/gateway/gateway_metrics.h"
#include "actors/gateway/openai_api.h"
#include "schema/generate.capnp.h"

namespace troupe {

// The requests that wait for or receive tokens, by the ids of their choices. Functions that end choices before the
// scheduler does return the ids to cancel there. Not thread-safe: belongs to the gateway actor.
class LiveRequests {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit LiveRequests(std::shared_ptr<GatewayMetrics> metrics) : metrics_(std::move(metrics)) {}

  void add(std::shared_ptr<Submission> submission);

  // Writes what the scheduler reports. Deltas of requests that are not there (any more) are skipped.
  std::vector<std::uint64_t> accept(schema::Deltas::Reader deltas, Time now);

  // The client of this submission has gone.
  std::vector<std::uint64_t> drop(std::uint64_t first_request, std::size_t choices);

  // Answers all of them with this error.
  std::vector<std::uint64_t> fail_all(const ApiError& error);

  bool empty() const { return choices_.empty(); }

 private:
  struct Request {
    std::shared_ptr<Submission> submission;
    std::vector<Time> last_token;  // of each choice; the epoch's beginning before the first
    bool answered = false;         // a token of any choice has come
  };
  using RequestPtr = std::shared_ptr<Request>;

  void accept_one(schema::Delta::Reader delta, Time now, std::vector<std::uint64_t>& cancelled);
  void observe(Request& request, std::size_t index, schema::Delta::Reader delta, Time now);
  // Forgets all choices of a request; those that still ran are added to `running`.
  void forget(const Request& request, std::vector<std::uint64_t>& running);
  void update_gauge();

  const std::shared_ptr<GatewayMetrics> metrics_;
  std::unordered_map<std::uint64_t, RequestPtr> choices_;  // those that run
};

}  // namespace troupe
