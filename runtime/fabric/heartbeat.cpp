#include "runtime/fabric/heartbeat.h"

namespace troupe::fabric {

Heartbeat::Verdict Heartbeat::check(Time now) {
  bool slept = last_check_ != Time{} && now - last_check_ > 2 * interval_;
  last_check_ = now;
  Verdict verdict{{}, now + interval_};
  for (auto& [number, peer] : peers_) {
    if (slept || peer.is_fresh) peer = {now, false};
    if (now - peer.heard > timeout_) verdict.silent.push_back(number);
  }
  return verdict;
}

}  // namespace troupe::fabric
