#include "actors/gateway/live_requests.h"

#include <utility>

#include "runtime/engine/error_info.h"

namespace troupe {
namespace {

double seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

void LiveRequests::add(std::shared_ptr<Submission> submission) {
  auto request = std::make_shared<Request>();
  request->last_token.resize(submission->writer->choices());
  for (std::size_t i = 0; i < request->last_token.size(); ++i) {
    choices_.emplace(submission->first_request + i, request);
  }
  metrics_->prompt_tokens.Increment(static_cast<double>(submission->writer->prompt_tokens()));
  request->submission = std::move(submission);
  update_gauge();
}

std::vector<std::uint64_t> LiveRequests::accept(schema::Deltas::Reader deltas, Time now) {
  std::vector<std::uint64_t> cancelled;
  for (const auto delta : deltas.getItems()) accept_one(delta, now, cancelled);
  update_gauge();
  return cancelled;
}

void LiveRequests::accept_one(schema::Delta::Reader delta, Time now, std::vector<std::uint64_t>& cancelled) {
  const auto found = choices_.find(delta.getRequest());
  if (found == choices_.end()) return;
  const RequestPtr request = found->second;
  ResponseWriter& writer = *request->submission->writer;
  if (delta.getFinish() == schema::FinishReason::ERROR) {
    choices_.erase(found);
    forget(*request, cancelled);
    return writer.fail(api_error(engine::read_error(delta.getError())));
  }
  const std::size_t index = delta.getRequest() - request->submission->first_request;
  observe(*request, index, delta, now);
  switch (writer.accept(index, delta)) {
    case ChoiceState::kRunning: break;
    case ChoiceState::kStopped: cancelled.push_back(delta.getRequest()); [[fallthrough]];
    case ChoiceState::kEnded: choices_.erase(delta.getRequest()); break;
  }
  if (writer.complete()) metrics_->end_to_end_seconds.Observe(seconds(now - request->submission->arrival));
}

void LiveRequests::observe(Request& request, std::size_t index, schema::Delta::Reader delta, Time now) {
  const std::size_t tokens = delta.getTokens().size();
  if (tokens == 0) return;
  metrics_->generated_tokens.Increment(static_cast<double>(tokens));
  if (!request.answered) {
    metrics_->time_to_first_token_seconds.Observe(seconds(now - request.submission->arrival));
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

std::vector<std::uint64_t> LiveRequests::drop(std::uint64_t first_request, std::size_t choices) {
  std::vector<std::uint64_t> cancelled;
  for (std::uint64_t id = first_request; id < first_request + choices; ++id) {
    if (choices_.erase(id) > 0) cancelled.push_back(id);
  }
  if (!cancelled.empty()) metrics_->cancelled.Increment();
  update_gauge();
  return cancelled;
}

std::vector<std::uint64_t> LiveRequests::fail_all(const ApiError& error) {
  std::vector<std::uint64_t> cancelled;
  for (const auto& [id, request] : std::exchange(choices_, {})) {
    request->submission->writer->fail(error);
    cancelled.push_back(id);
  }
  update_gauge();
  return cancelled;
}

void LiveRequests::forget(const Request& request, std::vector<std::uint64_t>& running) {
  for (std::size_t i = 0; i < request.last_token.size(); ++i) {
    const std::uint64_t id = request.submission->first_request + i;
    if (choices_.erase(id) > 0) running.push_back(id);
  }
}

void LiveRequests::update_gauge() { metrics_->in_flight.Set(static_cast<double>(choices_.size())); }

}  // namespace troupe
