#include "actors/gateway/live_requests.h"

#include <utility>

#include "runtime/engine/error_info.h"

namespace troupe {
namespace {

double seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

void LiveRequests::add(std::shared_ptr<Submission> submission) {
  auto request = std::make_shared<Request>();
  request->running = submission->writer->choices();
  request->last_token.resize(request->running);
  for (std::size_t i = 0; i < request->running; ++i) choices_.emplace(submission->first_request + i, request);
  metrics_->prompt_tokens.Increment(static_cast<double>(submission->writer->prompt_tokens()));
  metrics_->count_routed(submission->route.replica);
  request->submission = std::move(submission);
  update_gauge();
}

std::vector<Unwanted> LiveRequests::accept(schema::Deltas::Reader deltas, Time now) {
  std::vector<Unwanted> unwanted;
  for (const auto delta : deltas.getItems()) accept_one(delta, now, unwanted);
  update_gauge();
  return unwanted;
}

void LiveRequests::accept_one(schema::Delta::Reader delta, Time now, std::vector<Unwanted>& unwanted) {
  const std::uint64_t id = delta.getRequest();
  const auto found = choices_.find(id);
  if (found == choices_.end()) return;
  const RequestPtr request = found->second;
  ResponseWriter& writer = *request->submission->writer;
  if (delta.getFinish() == schema::FinishReason::ERROR) {
    end(id);
    end_all(*request, unwanted);
    return writer.fail(api_error(engine::read_error(delta.getError())));
  }
  const std::size_t index = id - request->submission->first_request;
  observe(*request, index, delta, now);
  switch (writer.accept(index, delta)) {
    case ChoiceState::kRunning: break;
    case ChoiceState::kStopped:
      if (const auto stopped = end(id)) unwanted.push_back(*stopped);
      break;
    case ChoiceState::kEnded: end(id); break;
  }
  if (writer.complete()) metrics_->end_to_end_seconds.Observe(seconds(now - request->submission->arrival));
}

void LiveRequests::observe(Request& request, std::size_t index, schema::Delta::Reader delta, Time now) {
  const std::size_t tokens = delta.getTokens().size();
  if (tokens == 0) return;
  metrics_->generated_tokens.Increment(static_cast<double>(tokens));
  if (!request.answered) {
    metrics_->time_to_first_token_seconds.Observe(seconds(now - request.submission->arrival));
    prefilled(request);
  }
  request.answered = true;
  if (request.last_token[index] == Time()) {
    metrics_->queue_seconds.Observe(static_cast<double>(delta.getQueueNs()) * 1e-9);
  } else {
    // Tokens that came together share the time since the last ones.
    const double each = seconds(now - request.last_token[index]) / static_cast<double>(tokens);
    for (std::size_t i = 0; i < tokens; ++i) metrics_->inter_token_seconds.Observe(each);
  }
  request.last_token[index] = now;
}

std::vector<Unwanted> LiveRequests::drop(std::uint64_t first_request, std::size_t choices) {
  std::vector<Unwanted> unwanted;
  for (std::uint64_t id = first_request; id < first_request + choices; ++id) {
    if (const auto dropped = end(id)) unwanted.push_back(*dropped);
  }
  if (!unwanted.empty()) metrics_->cancelled.Increment();
  update_gauge();
  return unwanted;
}

std::vector<Unwanted> LiveRequests::fail_all(const ApiError& error) {
  std::vector<Unwanted> unwanted;
  while (!choices_.empty()) {
    const RequestPtr request = choices_.begin()->second;
    request->submission->writer->fail(error);
    end_all(*request, unwanted);
  }
  update_gauge();
  return unwanted;
}

void LiveRequests::fail_replica(std::uint32_t replica, const ApiError& error) {
  std::vector<RequestPtr> theirs;
  for (const auto& [id, request] : choices_) {
    if (request->submission->route.replica == replica) theirs.push_back(request);
  }
  std::vector<Unwanted> unwanted;
  for (const RequestPtr& request : theirs) {
    request->submission->writer->fail(error);
    end_all(*request, unwanted);
  }
  update_gauge();
}

std::optional<Unwanted> LiveRequests::end(std::uint64_t id) {
  const auto found = choices_.find(id);
  if (found == choices_.end()) return std::nullopt;
  const RequestPtr request = found->second;
  choices_.erase(found);
  const auto& route = request->submission->route;
  router_.ended(route, 1);
  if (--request->running == 0) prefilled(*request);  // given up before its first token
  return Unwanted{route.replica, id};
}

void LiveRequests::end_all(const Request& request, std::vector<Unwanted>& unwanted) {
  for (std::size_t i = 0; i < request.last_token.size(); ++i) {
    if (const auto ended = end(request.submission->first_request + i)) unwanted.push_back(*ended);
  }
}

void LiveRequests::prefilled(Request& request) {
  if (!std::exchange(request.prefilled, true)) router_.prefilled(request.submission->route);
}

void LiveRequests::update_gauge() { metrics_->in_flight.Set(static_cast<double>(choices_.size())); }

}  // namespace troupe
