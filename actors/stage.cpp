#include "actors/stage.h"

#include <chrono>
#include <deque>
#include <vector>

#include <caf/all.hpp>

#include "actors/outcome.h"
#include "actors/stats.h"
#include "runtime/base/log.h"
#include "runtime/base/metrics.h"
#include "runtime/fabric/message.h"
#include "schema/activation.capnp.h"
#include "schema/cluster.capnp.h"
#include "schema/step.capnp.h"

namespace troupe {
namespace {

using TimePoint = caf::actor_clock::time_point;

struct StageState {
  const char* name = "stage";
  StageOptions options;
  Metrics metrics;
  prometheus::Histogram* step_seconds = nullptr;
  std::uint64_t epoch = 0;  // 0 = not assembled
  std::vector<caf::actor> shards;
  caf::actor next;  // null at the last stage
  caf::actor scheduler;

  struct Begun {
    std::uint64_t step;
    TimePoint at;
  };
  std::deque<Begun> begun;  // steps that the shards have, oldest first; as many as the scheduler sends at once

  bool is_current(schema::Fence::Reader fence) const {
    return epoch != 0 && fence.getReplica() == options.replica && fence.getEpoch() == epoch;
  }

  void step_begins(schema::Fence::Reader fence, TimePoint now) { begun.push_back({fence.getStep(), now}); }

  // Steps end in their order; a failed one may be reported by several ranks.
  void step_ends(schema::Fence::Reader fence, TimePoint now) {
    while (!begun.empty() && begun.front().step <= fence.getStep()) {
      if (begun.front().step == fence.getStep()) {
        step_seconds->Observe(std::chrono::duration<double>(now - begun.front().at).count());
      }
      begun.pop_front();
    }
  }

  fabric::Message<schema::Stats> stats() const {
    return stats_of(stage_name(options.replica, options.stage), options.node, options.incarnation, metrics);
  }
};

Result<void> assemble(StageState& state, schema::Assemble::Reader plan) {
  const StageOptions& options = state.options;
  std::vector<caf::actor> shards(options.ranks);
  caf::actor next;
  caf::actor scheduler;
  for (const auto address : plan.getActors()) {
    const std::string name = address.getActor();
    if (name == scheduler_name(options.replica)) {
      scheduler = options.resolve(address);
    } else if (name == stage_name(options.replica, options.stage + 1)) {
      next = options.resolve(address);
    } else {
      for (std::uint32_t rank = 0; rank < options.ranks; ++rank) {
        if (name == shard_name(options.replica, options.stage, rank)) shards[rank] = options.resolve(address);
      }
    }
  }
  for (std::uint32_t rank = 0; rank < options.ranks; ++rank) {
    if (!shards[rank]) return unavailable(shard_name(options.replica, options.stage, rank) + " cannot be reached");
  }
  if (!scheduler) return unavailable(scheduler_name(options.replica) + " cannot be reached");
  if (options.stage + 1 < options.stages && !next) {
    return unavailable(stage_name(options.replica, options.stage + 1) + " cannot be reached");
  }
  state.shards = std::move(shards);
  state.next = std::move(next);
  state.scheduler = std::move(scheduler);
  state.begun.clear();
  state.epoch = plan.getEpoch();
  return {};
}

caf::behavior run_stage(caf::stateful_actor<StageState>* self, StageOptions options) {
  StageState& state = self->state;
  state.options = std::move(options);
  state.step_seconds = &state.metrics.histogram(
      "troupe_stage_step_seconds", "From a step's arrival to the output of the stage's shards.",
      latency_bounds_seconds(),
      {{"actor", stage_name(state.options.replica, state.options.stage)}, {"node", state.options.node}});
  // A shard or neighbour that is gone is the root supervisor's business: it assembles the replica again.
  self->set_default_handler(caf::print_and_drop);
  return {
      [self](const fabric::Message<schema::Assemble>& message) {
        return outcome_of(assemble(self->state, *message.read()));
      },
      [self](const fabric::Message<schema::Step>& message) {
        const auto step = message.read();
        if (!self->state.is_current(step->getFence())) return;
        self->state.step_begins(step->getFence(), self->clock().now());
        for (const caf::actor& shard : self->state.shards) self->send(shard, message);
      },
      [self](const fabric::Message<schema::Activation>& message) {
        const auto activation = message.read();
        const auto fence = activation->getStep().getFence();
        if (!self->state.is_current(fence)) return;
        if (activation->getProducedBy() == self->state.options.stage) {
          self->state.step_ends(fence, self->clock().now());
          if (self->state.next) self->send(self->state.next, message);
          return;
        }
        self->state.step_begins(fence, self->clock().now());
        for (const caf::actor& shard : self->state.shards) self->send(shard, message);
      },
      [self](const fabric::Message<schema::StepResult>& message) {
        const auto result = message.read();
        if (!self->state.is_current(result->getFence())) return;
        self->state.step_ends(result->getFence(), self->clock().now());
        self->send(self->state.scheduler, message);
      },
      [self](const fabric::Message<schema::StatsRequest>&) { return self->state.stats(); },
  };
}

}  // namespace

caf::actor spawn_stage(caf::actor_system& system, StageOptions options) {
  return system.spawn(run_stage, std::move(options));
}

}  // namespace troupe
