#include "actors/supervisor.h"

#include <map>

#include <caf/all.hpp>

#include "actors/outcome.h"
#include "runtime/base/log.h"

namespace troupe {
namespace {

using SpawnMessage = fabric::Message<schema::Spawn>;
using SpawnedMessage = fabric::Message<schema::Spawned>;

// What delegate must know of an actor that answers a Spawn by itself.
using SpawnAnswerer = caf::typed_actor<caf::replies_to<SpawnMessage>::with<SpawnedMessage>>;

struct SupervisorState {
  const char* name = "supervisor";
  SupervisorOptions options;
  std::map<std::string, caf::actor> hosted;
  bool draining = false;
};

Result<void> connect_all(const SupervisorState& state, schema::Assemble::Reader plan) {
  for (const auto address : plan.getActors()) TROUPE_RETURN_IF_ERROR(state.options.connect(address));
  return {};
}

caf::behavior run_supervisor(caf::stateful_actor<SupervisorState>* self, SupervisorOptions options) {
  self->state.options = std::move(options);
  self->set_default_handler(caf::print_and_drop);
  self->set_down_handler([self](const caf::down_msg& down) {
    auto& state = self->state;
    for (auto it = state.hosted.begin(); it != state.hosted.end(); ++it) {
      if (it->second.address() != down.source) continue;
      const std::string actor = it->first;
      state.hosted.erase(it);
      if (!state.draining) {
        state.options.on_fatal(actor + " ended: " + caf::to_string(down.reason));
      } else if (state.hosted.empty()) {
        state.options.on_drained();
      }
      return;
    }
  });
  return {
      [self](const SpawnMessage& message) -> caf::result<SpawnedMessage> {
        auto& state = self->state;
        const auto spawn = message.read();
        const std::string actor = spawn->getActor();
        if (state.draining || state.hosted.contains(actor)) {
          return spawned_of(actor, unavailable(actor + (state.draining ? ": this node is ending" : " exists already")));
        }
        auto made = state.options.make_actor(spawn.root());
        if (!made.ok()) return spawned_of(actor, std::move(made).error());
        state.hosted.emplace(actor, made->handle);
        self->monitor(made->handle);
        state.options.publish(actor, made->handle);
        if (made->answers_spawn) return self->delegate(caf::actor_cast<SpawnAnswerer>(made->handle), message);
        return spawned_of(actor, made->detail);
      },
      [self](const fabric::Message<schema::Assemble>& message) {
        return outcome_of(connect_all(self->state, *message.read()));
      },
      [self](const fabric::Message<schema::StatsRequest>&) {
        return fabric::make_message<schema::Stats>(
            [&](schema::Stats::Builder out) { self->state.options.write_stats(out); });
      },
      [self](const fabric::Message<schema::Drain>&) {
        auto& state = self->state;
        state.draining = true;
        for (const auto& [name, actor] : state.hosted) self->send_exit(actor, caf::exit_reason::user_shutdown);
        if (state.hosted.empty()) state.options.on_drained();
        return outcome_of({});
      },
  };
}

}  // namespace

caf::actor spawn_supervisor(caf::actor_system& system, SupervisorOptions options) {
  return system.spawn<caf::detached>(run_supervisor, std::move(options));
}

}  // namespace troupe
