#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "actors/gateway/api_error.h"
#include "actors/gateway/gateway_metrics.h"
#include "actors/gateway/openai_api.h"
#include "schema/generate.capnp.h"

namespace troupe {

// A choice that a replica still works on, though nobody wants it any more.
struct Unwanted {
  std::uint32_t replica;
  std::uint64_t request;
};

// The requests that wait for or receive tokens, by the ids of their choices. Tells the router how they get on.
// Functions that end choices before the scheduler does return them, to be cancelled there. Not thread-safe: belongs to
// the gateway actor.
class LiveRequests {
 public:
  using Time = std::chrono::steady_clock::time_point;

  LiveRequests(std::shared_ptr<GatewayMetrics> metrics, engine::ReplicaRouter& router)
      : metrics_(std::move(metrics)), router_(router) {}

  // REQUIRES: it has its route.
  void add(std::shared_ptr<Submission> submission);

  // Writes what a scheduler reports. Deltas of requests that are not there (any more) are skipped.
  std::vector<Unwanted> accept(schema::Deltas::Reader deltas, Time now);

  // The client of this submission has gone.
  std::vector<Unwanted> drop(std::uint64_t first_request, std::size_t choices);

  // Answers all of them with this error.
  std::vector<Unwanted> fail_all(const ApiError& error);

  // Those of one replica, which is gone: there is nobody to cancel them.
  void fail_replica(std::uint32_t replica, const ApiError& error);

  bool empty() const { return choices_.empty(); }

 private:
  struct Request {
    std::shared_ptr<Submission> submission;
    std::vector<Time> last_token;  // of each choice; the epoch's beginning before the first
    bool answered = false;         // a token of any choice has come
    bool prefilled = false;        // as the router was told
    std::size_t running = 0;       // choices
  };
  using RequestPtr = std::shared_ptr<Request>;

  void accept_one(schema::Delta::Reader delta, Time now, std::vector<Unwanted>& unwanted);
  void observe(Request& request, std::size_t index, schema::Delta::Reader delta, Time now);
  // Forgets a choice; nothing if it does not run.
  std::optional<Unwanted> end(std::uint64_t id);
  // Forgets all choices of a request; those that still ran are added to `unwanted`.
  void end_all(const Request& request, std::vector<Unwanted>& unwanted);
  // The route has nothing of its prompts ahead any more.
  void prefilled(Request& request);
  void update_gauge();

  const std::shared_ptr<GatewayMetrics> metrics_;
  engine::ReplicaRouter& router_;
  std::unordered_map<std::uint64_t, RequestPtr> choices_;  // those that run
};

}  // namespace troupe
