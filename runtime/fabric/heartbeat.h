#pragma once

#include <chrono>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace troupe::fabric {

// Who was heard of when. Peers are named by numbers; time is an argument, so that a test owns it.
class Heartbeat {
 public:
  using Time = std::chrono::steady_clock::time_point;

  Heartbeat(std::chrono::milliseconds interval, std::chrono::milliseconds timeout)
      : interval_(interval), timeout_(timeout) {}

  void add(std::uint64_t peer, Time now) { peers_[peer] = {now, false}; }
  void remove(std::uint64_t peer) { peers_.erase(peer); }
  // The time is noted by the next check(): frames need no clock.
  void heard(std::uint64_t peer) {
    if (auto found = peers_.find(peer); found != peers_.end()) found->second.is_fresh = true;
  }

  struct Verdict {
    std::vector<std::uint64_t> silent;  // for longer than the timeout: dead
    Time next;                          // when to ask again
  };
  // To be asked about every interval. When this process itself slept (it was stopped, or starved), the peers get
  // another full timeout: their frames may wait unread.
  Verdict check(Time now);

 private:
  const std::chrono::milliseconds interval_;
  const std::chrono::milliseconds timeout_;
  Time last_check_{};
  struct Peer {
    Time heard{};
    bool is_fresh = false;  // heard since the last check
  };
  std::unordered_map<std::uint64_t, Peer> peers_;
};

}  // namespace troupe::fabric
