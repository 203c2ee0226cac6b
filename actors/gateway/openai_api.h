#pragma once

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "actors/gateway/api_keys.h"
#include "actors/gateway/gateway_metrics.h"
#include "actors/gateway/http_server.h"
#include "actors/gateway/response_writer.h"
#include "actors/gateway/scheduler_room.h"
#include "actors/gateway/served_model.h"
#include "runtime/engine/replica_router.h"
#include "runtime/fabric/message.h"
#include "schema/generate.capnp.h"

namespace troupe {

// Prompts under way. A Ticket counts some of them until it is dropped.
class InFlight {
 public:
  explicit InFlight(std::uint64_t most) : most_(most) {}

  using Ticket = std::shared_ptr<void>;
  // Null when there would be more than `most`. Thread-safe.
  Ticket admit(std::uint64_t prompts);
  std::uint64_t count() const { return *count_; }

 private:
  const std::uint64_t most_;
  // Tickets may outlive this.
  const std::shared_ptr<std::atomic<std::uint64_t>> count_ = std::make_shared<std::atomic<std::uint64_t>>(0);
};

// An HTTP request that is ready for the scheduler.
struct Submission {
  std::uint64_t first_request = 0;  // id of the first choice; the others follow
  std::vector<fabric::Message<schema::Generate>> generates;
  std::unique_ptr<ResponseWriter> writer;
  engine::ReplicaRouter::Route route;  // set by the actor
  std::chrono::steady_clock::time_point arrival;
  std::vector<InFlight::Ticket> tickets;
  SchedulerRoom::Ticket place;  // until it is sent
};

// The actor's half of the gateway as the HTTP half sees it. Called on any thread.
class GatewayBackend {
 public:
  virtual ~GatewayBackend() = default;
  virtual void submit(std::shared_ptr<Submission> submission) = 0;
  // The client of the submission with this first request id has gone.
  virtual void gone(std::uint64_t first_request, std::size_t choices) = 0;
  // Answers with the metrics of this process and the scheduler.
  virtual void scrape(std::shared_ptr<HttpResponder> responder) = 0;
  // Whether a scheduler is there and its cluster assembled.
  virtual bool ready() const = 0;
};

class MeteredResponder;

struct OpenAiApiOptions {
  std::vector<std::string> api_keys;
  std::string version;
  std::uint64_t incarnation = 0;  // part of response ids
  Limits limits;
  std::size_t prepare_threads = 2;  // that parse and tokenize
};

// The HTTP half of the gateway: routes, checks keys, parses, tokenizes, and hands over. Thread-safe.
class OpenAiApi {
 public:
  OpenAiApi(std::shared_ptr<const ServedModel> model, OpenAiApiOptions options, std::shared_ptr<GatewayMetrics> metrics,
            std::shared_ptr<GatewayBackend> backend, std::shared_ptr<SchedulerRoom> room);
  // Waits for what is being prepared.
  ~OpenAiApi();

  // Never blocks: bodies are read on the preparing threads.
  void handle(HttpRequest request, std::shared_ptr<HttpResponder> responder);

  // The answer to what never became a request.
  HttpResponse refusal(unsigned status, std::string_view message);

  const InFlight& in_flight() const { return in_flight_; }

 private:
  struct Route;
  static const std::vector<Route>& routes();

  void completion(Endpoint endpoint, HttpRequest request, std::shared_ptr<MeteredResponder> responder);
  void prepare(Endpoint endpoint, const HttpRequest& request, std::shared_ptr<MeteredResponder> responder,
               std::vector<InFlight::Ticket> tickets, SchedulerRoom::Ticket place);
  void log_unknown_fields(const std::vector<std::string>& names);

  const std::shared_ptr<const ServedModel> model_;
  const OpenAiApiOptions options_;
  const std::shared_ptr<GatewayMetrics> metrics_;
  const std::shared_ptr<GatewayBackend> backend_;
  const std::shared_ptr<SchedulerRoom> room_;
  const ApiKeys keys_;
  InFlight in_flight_;
  std::atomic<std::uint64_t> next_request_ = 1;
  std::atomic<std::uint64_t> next_response_ = 1;
  std::mutex mutex_;
  std::set<std::string> logged_fields_;
  boost::asio::thread_pool pool_;
};

}  // namespace troupe
