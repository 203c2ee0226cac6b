#include "runtime/engine/admission.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace troupe::engine {

namespace {

constexpr double kLongestRetryMs = 60'000;  // OpenAI's clients take no longer advice

// How long it takes until `tokens` that wait have begun; 0 = not known.
double wait_ms(std::uint64_t tokens, double tokens_per_s) {
  return tokens_per_s > 0 ? static_cast<double>(tokens) / tokens_per_s * 1e3 : 0;
}

std::uint32_t retry_after_ms(const Backlog& backlog) {
  return static_cast<std::uint32_t>(
      std::ceil(std::min(wait_ms(backlog.tokens, backlog.tokens_per_s), kLongestRetryMs)));
}

Error refusal(std::string message, const char* limit, const Backlog& backlog) {
  Error error = resource_exhausted(std::move(message), limit);
  error.retry_after_ms = retry_after_ms(backlog);
  return error;
}

}  // namespace

Result<void> Admission::admit(const Arrival& arrival, const Backlog& backlog) {
  const auto found = groups_.find(arrival.owner);
  if (found != groups_.end()) {
    Group& group = found->second;
    const bool follows = group.next_request == arrival.request && group.requests == arrival.siblings + 1;
    const std::optional<Error> refusal = group.refusal;
    if (!follows || arrival.siblings == 0) {
      groups_.erase(found);
    } else {
      ++group.next_request;
      --group.requests;
      group.tokens = arrival.sibling_tokens;
    }
    if (follows) return refusal ? Result<void>(*refusal) : Result<void>();
  }
  Result<void> result = check(arrival, with_reserved(backlog));
  if (arrival.siblings > 0) {
    groups_[arrival.owner] = {.next_request = arrival.request + 1,
                              .requests = arrival.siblings,
                              .tokens = arrival.sibling_tokens,
                              .refusal = result.ok() ? std::nullopt : std::optional(result.error())};
  }
  return result;
}

Result<void> Admission::check(const Arrival& arrival, const Backlog& backlog) const {
  const std::uint64_t choices = std::uint64_t{arrival.siblings} + 1;
  if (choices > queue_) {
    return invalid_argument("the request has " + std::to_string(choices) + " choices; the queue takes at most " +
                                std::to_string(queue_) + " (limit queue); send several requests",
                            "prompt");
  }
  if (backlog.requests + choices > queue_) {
    return refusal("the scheduler's queue is full: " + std::to_string(backlog.requests) +
                       " requests wait (limit queue); ask again later",
                   "queue", backlog);
  }
  // What it needs itself does not count: a prompt that is longer than the target may always wait where few others do.
  const double wait = wait_ms(backlog.tokens, backlog.tokens_per_s);
  if (!is_full(backlog)) return {};
  return refusal("the prompts that wait need about " + std::to_string(std::llround(std::min(wait, 1e15))) +
                     " ms, no less than target_ttft_ms of " + std::to_string(target_ttft_ms_) + "; ask again later",
                 "target_ttft_ms", backlog);
}

Backlog Admission::with_reserved(const Backlog& backlog) const {
  Backlog all = backlog;
  for (const auto& [owner, group] : groups_) {
    if (group.refusal) continue;
    all.requests += group.requests;
    all.tokens += group.tokens;
  }
  return all;
}

QueueRoom Admission::room(const Backlog& backlog) const {
  const Backlog all = with_reserved(backlog);
  QueueRoom room{.requests = queue_ - std::min(queue_, all.requests), .retry_after_ms = retry_after_ms(all)};
  if (is_full(all)) room.requests = 0;
  return room;
}

bool Admission::is_full(const Backlog& backlog) const {
  return target_ttft_ms_ > 0 && backlog.requests > 0 &&
         wait_ms(backlog.tokens, backlog.tokens_per_s) >= static_cast<double>(target_ttft_ms_);
}

}  // namespace troupe::engine
