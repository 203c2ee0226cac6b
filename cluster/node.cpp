#include "cluster/node.h"

#include <unistd.h>

#include <caf/all.hpp>
#include <cstdlib>

#include "actors/outcome.h"
#include "cluster/actor_host.h"
#include "cluster/end_signal.h"
#include "runtime/base/log.h"
#include "runtime/fabric/fabric.h"

namespace troupe::cluster {
namespace {

// Tells the root that this node is there; returns when the root has taken it in.
Result<void> join(caf::actor_system& system, fabric::Fabric& fabric, const fabric::NodeId& root, const Limits& limits) {
  const caf::actor handle = caf::actor_cast<caf::actor>(fabric.resolve(root, kRootSupervisorName));
  if (!handle) return unavailable("the root's connection is gone");
  const auto message = fabric::make_message<schema::Join>([&](schema::Join::Builder out) {
    out.initNode().setName(fabric.node().name);
    out.getNode().setIncarnation(fabric.node().incarnation);
    out.setEndpoint(fabric.endpoint());
    out.setPid(static_cast<std::uint32_t>(getpid()));
  });
  Result<void> joined = internal_error("no answer");
  caf::scoped_actor self(system);
  self->request(handle, std::chrono::milliseconds(2 * limits.connect_timeout_ms), message)
      .receive([&](const fabric::Message<schema::Outcome>& outcome) { joined = read_outcome(outcome); },
               [&](const caf::error& error) { joined = unavailable(system.render(error)); });
  return joined;
}

}  // namespace

int run_node(const NodeOptions& options) {
  EndSignal end;
  caf::actor_system_config config;
  fabric::configure(config);
  caf::actor_system system(config);
  auto started = fabric::Fabric::start(system, {.node_name = options.name,
                                                .listen = options.listen,
                                                .secret = options.secret,
                                                .limits = options.limits,
                                                .types = fabric::schema_message_types(),
                                                .transports = options.transports});
  if (!started.ok()) {
    spdlog::error("{}", started.error().message);
    return 1;
  }
  std::unique_ptr<fabric::Fabric> fabric = std::move(started).value();
  ActorHost host(system, *fabric);
  const caf::actor supervisor =
      host.start_supervisor([&] { end.end(0, "drained"); }, [&](const std::string& reason) { end.end(1, reason); });
  auto root = fabric->connect(options.root);
  if (root.ok()) {
    fabric->on_peer_lost([&, id = *root](const fabric::NodeId& peer, const std::string& reason) {
      if (peer == id) end.end(1, "the root is gone: " + reason);
    });
    if (auto joined = join(system, *fabric, *root, options.limits); !joined.ok()) {
      end.end(1, "the root at " + options.root + " refused this node: " + joined.error().message);
    }
  } else {
    end.end(1, "the root at " + options.root + " cannot be reached: " + root.error().message);
  }

  const auto reason = end.wait();
  if (reason && reason->code == 0) {
    caf::anon_send_exit(supervisor, caf::exit_reason::user_shutdown);
    fabric.reset();
    return 0;
  }
  // Not drained: actors may be in the middle of a step, and whatever they hold is of no more use. The kernel
  // closes our connections, which tells the peers at once.
  spdlog::error("ending: {}", reason ? reason->reason : "interrupted");
  spdlog::shutdown();
  std::_Exit(reason ? reason->code : 1);
}

}  // namespace troupe::cluster
