#include "actors/gateway/cluster_metrics.h"

#include <algorithm>
#include <chrono>

#include "actors/stats.h"
#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"

namespace troupe {
namespace {

constexpr std::chrono::milliseconds kDeadline{500};
// Of an answer that comes too late for this scrape but in time for the next.
constexpr std::chrono::seconds kPatience{60};

}  // namespace

void ClusterMetrics::work_with(const std::vector<caf::actor>& members) {
  members_.clear();
  for (const caf::actor& member : members) members_.push_back(std::make_shared<Member>(Member{member, {}, false}));
  if (!waiting_.empty()) close();
}

void ClusterMetrics::collect(Answer answer) {
  waiting_.push_back(std::move(answer));
  if (waiting_.size() > 1) return;  // a round is on its way
  for (const auto& member : members_) ask(member);
  self_->delayed_send(self_, kDeadline, MetricsDeadline{round_});
  close_when_complete();
}

void ClusterMetrics::ask(const std::shared_ptr<Member>& member) {
  if (member->asked) return;
  member->asked = true;
  self_->request(member->handle, kPatience, fabric::make_message<schema::StatsRequest>([](auto) {}))
      .then(
          [this, member](const fabric::Message<schema::Stats>& stats) {
            member->asked = false;
            const auto reader = stats.read();
            member->last = read_families(reader.root());
            close_when_complete();
          },
          [this, member](const caf::error& error) {
            member->asked = false;
            if (error != caf::sec::request_timeout) member->last.clear();
            close_when_complete();
          });
}

void ClusterMetrics::close_round(MetricsDeadline deadline) {
  if (deadline.round == round_ && !waiting_.empty()) close();
}

void ClusterMetrics::close_when_complete() {
  const bool complete = std::none_of(members_.begin(), members_.end(),
                                     [](const std::shared_ptr<Member>& member) { return member->asked; });
  if (complete && !waiting_.empty()) close();
}

void ClusterMetrics::close() {
  ++round_;
  MetricFamilies families;
  for (const auto& member : members_) merge_metric_families(families, member->last);
  for (const Answer& answer : std::exchange(waiting_, {})) answer(families);
}

}  // namespace troupe
