#include "actors/stage.h"

#include <vector>

#include <caf/all.hpp>

#include "actors/outcome.h"
#include "runtime/base/log.h"
#include "runtime/fabric/message.h"
#include "schema/activation.capnp.h"
#include "schema/cluster.capnp.h"
#include "schema/step.capnp.h"

namespace troupe {
namespace {

struct StageState {
  const char* name = "stage";
  StageOptions options;
  std::uint64_t epoch = 0;  // 0 = not assembled
  std::vector<caf::actor> shards;
  caf::actor next;  // null at the last stage
  caf::actor scheduler;

  bool is_current(schema::Fence::Reader fence) const {
    return epoch != 0 && fence.getReplica() == options.replica && fence.getEpoch() == epoch;
  }
};

Result<void> assemble(StageState& state, schema::Assemble::Reader plan) {
  const StageOptions& options = state.options;
  std::vector<caf::actor> shards(options.ranks);
  caf::actor next;
  caf::actor scheduler;
  for (const auto address : plan.getActors()) {
    const std::string name = address.getActor();
    if (name == kSchedulerName) {
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
  if (!scheduler) return unavailable("the scheduler cannot be reached");
  if (options.stage + 1 < options.stages && !next) {
    return unavailable(stage_name(options.replica, options.stage + 1) + " cannot be reached");
  }
  state.shards = std::move(shards);
  state.next = std::move(next);
  state.scheduler = std::move(scheduler);
  state.epoch = plan.getEpoch();
  return {};
}

caf::behavior run_stage(caf::stateful_actor<StageState>* self, StageOptions options) {
  self->state.options = std::move(options);
  // A shard or neighbour that is gone is the root supervisor's business: it assembles the replica again.
  self->set_default_handler(caf::print_and_drop);
  return {
      [self](const fabric::Message<schema::Assemble>& message) {
        return outcome_of(assemble(self->state, *message.read()));
      },
      [self](const fabric::Message<schema::Step>& message) {
        if (!self->state.is_current(message.read()->getFence())) return;
        for (const caf::actor& shard : self->state.shards) self->send(shard, message);
      },
      [self](const fabric::Message<schema::Activation>& message) {
        const auto activation = message.read();
        if (!self->state.is_current(activation->getStep().getFence())) return;
        if (activation->getProducedBy() == self->state.options.stage) {
          if (self->state.next) self->send(self->state.next, message);
          return;
        }
        for (const caf::actor& shard : self->state.shards) self->send(shard, message);
      },
      [self](const fabric::Message<schema::StepResult>& message) {
        if (!self->state.is_current(message.read()->getFence())) return;
        self->send(self->state.scheduler, message);
      },
  };
}

}  // namespace

caf::actor spawn_stage(caf::actor_system& system, StageOptions options) {
  return system.spawn(run_stage, std::move(options));
}

}  // namespace troupe
