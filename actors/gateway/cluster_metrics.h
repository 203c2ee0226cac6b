#pragma once

#include <caf/actor.hpp>
#include <caf/event_based_actor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "runtime/base/metrics.h"

namespace troupe {

// Sent by a ClusterMetrics to its own actor, which hands it to close_round.
struct MetricsDeadline {
  std::uint64_t round;
};

// What the other actors of the cluster report about themselves, for /metrics. Belongs to one actor and is used by its
// thread only. At most one StatsRequest is on its way to each member, however many ask.
class ClusterMetrics {
 public:
  using Answer = std::function<void(const MetricFamilies&)>;

  explicit ClusterMetrics(caf::event_based_actor* self) : self_(self) {}

  // From now on these are asked. What others have said is forgotten.
  void work_with(const std::vector<caf::actor>& members);

  // Calls `answer` when every member has answered, after half a second at the latest: a member that is busy with a
  // long step is shown as it was when it last answered, one that is gone not at all.
  void collect(Answer answer);

  void close_round(MetricsDeadline deadline);

 private:
  struct Member {
    caf::actor handle;
    MetricFamilies last;
    bool asked = false;
  };

  void ask(const std::shared_ptr<Member>& member);
  void close_when_complete();
  void close();

  caf::event_based_actor* self_;
  std::vector<std::shared_ptr<Member>> members_;
  std::vector<Answer> waiting_;  // as many as there are HTTP connections, at most
  std::uint64_t round_ = 0;
};

}  // namespace troupe

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::MetricsDeadline)
