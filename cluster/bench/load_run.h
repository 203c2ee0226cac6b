#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "cluster/bench/answer_reader.h"
#include "cluster/bench/arrivals.h"
#include "cluster/bench/block_reuse.h"
#include "cluster/bench/measurements.h"
#include "cluster/bench/request_body.h"
#include "cluster/bench/workload.h"
#include "cluster/http/http_connections.h"
#include "runtime/base/limits.h"

namespace troupe::cluster {

// Whom to send requests to, and when.
struct LoadPlan {
  HttpServer server;
  std::string target;  // such as /v1/completions
  bool chat = false;   // how its answers are read
  HttpTimeouts timeouts;
  std::optional<Arrivals> arrivals;    // an open loop; else a closed one
  std::uint32_t concurrency = 16;      // of a closed loop: clients, each of which waits for its answer
  std::uint32_t max_in_flight = 4096;  // of an open loop: what is due beyond it is not sent, and counted as shed
  std::uint64_t requests = 0;          // at most so many; 0 = as many as the time, the trace and bench_requests allow
  double duration_s = 0;               // none are sent after it; 0 = without bound
  std::uint32_t warmup = 2;            // requests before the first that counts, one after the other
  ServiceLevel service_level;
  Limits limits;
};

// How far a run is.
struct LoadProgress {
  double elapsed_s = 0;
  double share = 0;  // done, 0..1; of a run without a known end 0
  std::uint64_t answered = 0;
  std::uint64_t failed = 0;
  std::uint32_t in_flight = 0;
  std::uint64_t output_tokens = 0;  // of whole answers
};

// Sends the requests of a workload as its plan says, and measures the answers. Everything happens in the thread that
// calls, asynchronously: building a request and reading a piece of an answer take microseconds, and nothing else waits.
class LoadRun {
 public:
  // `on_progress` is called some times a second while measure() runs.
  LoadRun(LoadPlan plan, Workload workload, RequestBody body, std::shared_ptr<const Trace> trace,
          std::function<void(const LoadProgress&)> on_progress);

  // Errors: not one of the plan's warm-up requests was answered (says why), or Ctrl-C.
  Result<void> warm_up();

  // Returns when the last answer is whole. Ctrl-C (SIGINT) or SIGTERM ends it early: what is under way counts as
  // unfinished. A second one ends the process. Call once.
  const Measurements& measure();

  bool interrupted() const { return interrupted_; }

 private:
  using Clock = HttpConnections::Clock;
  using Ended = std::function<void(const RequestRecord& record)>;

  void watch_signals();
  void send(const PlannedRequest& request, double late_s, const Ended& ended);
  void send_measured(double late_s, std::function<void(const RequestRecord&)> then);
  void start_client(std::size_t client);
  void wait_for_arrival();
  void show_progress();
  bool may_send() const;
  void finish_if_done();
  double now_s() const { return seconds(Clock::now()); }
  double seconds(Clock::time_point at) const { return std::chrono::duration<double>(at - start_).count(); }

  LoadPlan plan_;
  const Workload workload_;
  const RequestBody body_;
  const std::shared_ptr<const Trace> trace_;
  const std::function<void(const LoadProgress&)> on_progress_;
  Clock::time_point start_ = Clock::now();
  Measurements measurements_;
  BlockReuse reuse_;
  std::uint64_t next_request_ = 0;
  std::size_t paused_ = 0;  // clients that wait after an error
  bool arrivals_over_ = false;
  bool interrupted_ = false;
  bool finished_ = false;
  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_{io_};
  boost::asio::steady_timer arrival_timer_{io_};
  boost::asio::steady_timer progress_timer_{io_};
  std::deque<boost::asio::steady_timer> pauses_;  // one for each client of a closed loop
  HttpConnections connections_;
};

}  // namespace troupe::cluster
