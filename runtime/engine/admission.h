#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::engine {

// What waits, and how fast it is worked off.
struct Backlog {
  std::uint64_t requests = 0;
  std::uint64_t tokens = 0;
  double tokens_per_s = 0;  // 0 = not known yet
};

// A request that would wait too.
struct Arrival {
  std::uint64_t owner = 0;
  std::uint64_t request = 0;
  std::uint32_t siblings = 0;        // choices of the same request that follow right after it
  std::uint64_t sibling_tokens = 0;  // of their prompts
};

// What the queue still takes.
struct QueueRoom {
  std::uint64_t requests = 0;
  std::uint32_t retry_after_ms = 0;  // when what waits now is worked off; 0 = not known
};

// Whether a request may wait: the queue is bounded in requests (limit queue), and in prompt tokens: who comes is to
// begin within target_ttft_ms at the rate at which those before it are worked off. The choices of a request are taken
// or refused together: with the first, places are reserved for those that follow. Used by one thread.
class Admission {
 public:
  explicit Admission(const Limits& limits) : queue_(limits.queue), target_ttft_ms_(limits.target_ttft_ms) {}

  // Errors: resourceExhausted, with the limit and when to ask again; invalidArgument for more choices than the queue
  // ever takes.
  Result<void> admit(const Arrival& arrival, const Backlog& backlog);

  // Reservations of an owner that is gone.
  void forget(std::uint64_t owner) { groups_.erase(owner); }

  QueueRoom room(const Backlog& backlog) const;

 private:
  // Choices that follow one that was admitted or refused. A gateway sends them one right after the other: it has at
  // most one group under way.
  struct Group {
    std::uint64_t next_request = 0;
    std::uint32_t requests = 0;  // still to come
    std::uint64_t tokens = 0;
    std::optional<Error> refusal;
  };

  Result<void> check(const Arrival& arrival, const Backlog& backlog) const;
  Backlog with_reserved(const Backlog& backlog) const;
  // In prompt tokens.
  bool is_full(const Backlog& backlog) const;

  const std::uint64_t queue_;
  const std::uint64_t target_ttft_ms_;
  std::map<std::uint64_t, Group> groups_;  // by owner
};

}  // namespace troupe::engine
