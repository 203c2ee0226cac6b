#pragma once

#include <cstdint>
#include <optional>

namespace troupe::engine {

// How fast the queue is worked off while there is one, whatever holds it up: prompts, slots or KV blocks. An average
// over the last seconds in which somebody waited. Deterministic: time comes as an argument. Used by one thread.
class DrainRate {
 public:
  // A step was sent in which sequences of so many tokens began; whether others still wait.
  void step(std::uint64_t now_ns, std::uint64_t tokens_begun, bool others_wait);

  // No steps for a while: the time until the next one tells nothing.
  void pause() { waiting_since_ns_.reset(); }

  // 0 = not known yet.
  double tokens_per_s() const;

 private:
  std::optional<std::uint64_t> waiting_since_ns_;  // the last step, if it left somebody waiting
  double waited_ns_ = 0;
  double tokens_ = 0;
};

}  // namespace troupe::engine
