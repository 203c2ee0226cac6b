#include "cluster/bench/load_run.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <utility>

namespace troupe::cluster {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{200};
// A client of a closed loop that was refused asks again only after a moment: a server that refuses at once would be
// asked as fast as a core can.
constexpr std::chrono::milliseconds kPauseAfterError{100};

// Each request under way holds a descriptor; the usual limit of 1024 is low, and we may raise it ourselves.
void allow_descriptors() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

LoadRun::LoadRun(LoadPlan plan, Workload workload, RequestBody body, std::shared_ptr<const Trace> trace,
                 std::function<void(const LoadProgress&)> on_progress)
    : plan_(std::move(plan)),
      workload_(std::move(workload)),
      body_(std::move(body)),
      trace_(std::move(trace)),
      on_progress_(std::move(on_progress)),
      measurements_(plan_.service_level, workload_.options().seed),
      connections_(io_, plan_.server, plan_.timeouts) {
  allow_descriptors();
  if (plan_.requests == 0 || plan_.requests > plan_.limits.bench_requests) plan_.requests = plan_.limits.bench_requests;
  watch_signals();
}

void LoadRun::watch_signals() {
  signals_.add(SIGINT);
  signals_.add(SIGTERM);
  signals_.async_wait([this](const boost::system::error_code& error, int) {
    if (error) return;
    interrupted_ = true;
    signals_.clear();  // a second one does what it does by default
    arrival_timer_.cancel();
    for (auto& pause : pauses_) pause.cancel();
    connections_.cancel_all();
    finish_if_done();
  });
}

Result<void> LoadRun::warm_up() {
  std::string why;
  bool answered = plan_.warmup == 0;
  for (std::uint32_t i = 0; i < plan_.warmup && !interrupted_; ++i) {
    std::optional<RequestRecord> record;
    send(workload_.warmup(i), 0, [&](const RequestRecord& ended) { record = ended; });
    while (!record) io_.run_one();
    answered |= record->result == RequestResult::kAnswered;
    if (!record->error.empty()) why = record->error;
  }
  if (interrupted_) return cancelled("interrupted before the first request that counts");
  if (!answered) return unavailable("no warm-up request was answered: " + why);
  return {};
}

const Measurements& LoadRun::measure() {
  start_ = Clock::now();
  show_progress();
  if (plan_.arrivals) {
    wait_for_arrival();
  } else {
    for (std::size_t client = 0; client < plan_.concurrency; ++client) pauses_.emplace_back(io_);
    for (std::size_t client = 0; client < plan_.concurrency; ++client) start_client(client);
  }
  finish_if_done();
  while (!finished_) io_.run_one();
  return measurements_;
}

void LoadRun::send(const PlannedRequest& request, double late_s, const Ended& ended) {
  const auto length = static_cast<std::uint32_t>(request.prompt.size());
  auto reader = std::make_shared<AnswerReader>(plan_.chat, now_s(), late_s, length, request.max_tokens, plan_.limits);
  connections_.start(
      {.post = true, .target = plan_.target, .body = body_.write(request)},
      [this, reader](std::string_view data, Clock::time_point arrived) { return reader->add(data, seconds(arrived)); },
      [this, reader, ended](const HttpOutcome& outcome) { ended(reader->finish(outcome, now_s())); });
}

void LoadRun::send_measured(double late_s, std::function<void(const RequestRecord&)> then) {
  const std::uint64_t index = next_request_++;
  const PlannedRequest request = workload_.request(index);
  if (request.clipped) measurements_.count_clipped();
  std::optional<std::uint64_t> reusable;
  if (trace_ != nullptr && trace_->has_blocks()) {
    reusable = reuse_.add(workload_.blocks(index), request.prompt.size(), workload_.options().block_tokens);
  }
  measurements_.sent(now_s());
  send(request, late_s, [this, reusable, then = std::move(then)](const RequestRecord& record) {
    measurements_.ended(record);
    if (reusable && record.result == RequestResult::kAnswered) measurements_.count_reusable(*reusable);
    then(record);
    finish_if_done();
  });
}

void LoadRun::start_client(std::size_t client) {
  if (!may_send()) return;
  send_measured(0, [this, client](const RequestRecord& record) {
    if (record.result == RequestResult::kAnswered) return start_client(client);
    if (!may_send()) return;
    ++paused_;
    pauses_[client].expires_after(kPauseAfterError);
    pauses_[client].async_wait([this, client](const boost::system::error_code&) {
      --paused_;
      start_client(client);
      finish_if_done();
    });
  });
}

void LoadRun::wait_for_arrival() {
  const std::optional<double> due_s = may_send() ? plan_.arrivals->next_s() : std::nullopt;
  if (!due_s || (plan_.duration_s > 0 && *due_s >= plan_.duration_s)) {
    arrivals_over_ = true;
    return;
  }
  // Also when it is due already: answers must be read between two requests.
  arrival_timer_.expires_at(start_ +
                            std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*due_s)));
  arrival_timer_.async_wait([this, due_s = *due_s](const boost::system::error_code&) {
    if (!interrupted_) {
      if (measurements_.in_flight() >= plan_.max_in_flight) {
        ++next_request_;
        measurements_.count_shed();
      } else {
        send_measured(now_s() - due_s, [](const RequestRecord&) {});
      }
    }
    wait_for_arrival();
    finish_if_done();
  });
}

void LoadRun::show_progress() {
  const double elapsed_s = now_s();
  const std::uint64_t done = measurements_.requests_answered() + measurements_.requests_failed();
  const bool known = plan_.requests < plan_.limits.bench_requests;
  const double by_count = known ? double(done) / static_cast<double>(plan_.requests) : 0;
  const double by_time = plan_.duration_s > 0 ? elapsed_s / plan_.duration_s : 0;
  on_progress_({.elapsed_s = elapsed_s,
                .share = std::min(1.0, std::max(by_count, by_time)),
                .answered = measurements_.requests_answered(),
                .failed = measurements_.requests_failed(),
                .in_flight = measurements_.in_flight(),
                .output_tokens = measurements_.output_tokens()});
  progress_timer_.expires_after(kProgressInterval);
  progress_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) show_progress();
  });
}

bool LoadRun::may_send() const {
  return !interrupted_ && next_request_ < plan_.requests && (plan_.duration_s <= 0 || now_s() < plan_.duration_s);
}

void LoadRun::finish_if_done() {
  // Whoever ends a request sends the next one before it comes here.
  const bool no_more_due = !plan_.arrivals || arrivals_over_;
  finished_ = no_more_due && paused_ == 0 && measurements_.in_flight() == 0;
}

}  // namespace troupe::cluster
