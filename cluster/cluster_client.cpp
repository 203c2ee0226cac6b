#include "cluster/cluster_client.h"

#include <unistd.h>

#include <caf/all.hpp>

#include "actors/names.h"
#include "actors/outcome.h"
#include "cluster/actor_host.h"
#include "cluster/network_namespace.h"

namespace troupe::cluster {
namespace {

constexpr std::chrono::milliseconds kAnswerTimeout{5'000};

// Sends `request` to `to` and waits for the answer.
template <class Answer, class Request>
Result<fabric::Message<Answer>> ask(caf::actor_system& system, const caf::actor& to,
                                    const fabric::Message<Request>& request, std::chrono::milliseconds timeout) {
  Result<fabric::Message<Answer>> result = internal_error("no answer");
  caf::scoped_actor self(system);
  self->request(to, timeout, request)
      .receive([&](const fabric::Message<Answer>& answer) { result = answer; },
               [&](const caf::error& error) { result = unavailable("no answer: " + system.render(error)); });
  return result;
}

}  // namespace

Result<std::unique_ptr<ClusterClient>> ClusterClient::join(caf::actor_system& system, const std::string& cluster) {
  TROUPE_ASSIGN_OR_RETURN(RunState state, read_run_state(cluster));
  std::unique_ptr<ClusterClient> client(new ClusterClient(system, std::move(state)));
  // The guest listens where the root does: on an address of that host.
  const std::string host = client->state_.endpoint.substr(0, client->state_.endpoint.rfind(':'));
  TROUPE_RETURN_IF_ERROR(run_in_network_namespace(client->state_.netns, [&]() -> Result<void> {
    TROUPE_ASSIGN_OR_RETURN(client->fabric_,
                            fabric::Fabric::start(system, {.node_name = "guest-" + std::to_string(getpid()),
                                                           .listen = host + ":0",
                                                           .secret = client->state_.secret,
                                                           .types = fabric::schema_message_types(),
                                                           .transports = client->state_.transports}));
    return {};
  }));
  TROUPE_ASSIGN_OR_RETURN(const fabric::NodeId root, client->fabric_->connect(client->state_.endpoint));
  client->root_ = caf::actor_cast<caf::actor>(client->fabric_->resolve(root, kRootSupervisorName));
  if (!client->root_) return unavailable("the root's connection is gone");
  return client;
}

Result<fabric::Message<schema::ClusterStatus>> ClusterClient::status() {
  return ask<schema::ClusterStatus>(system_, root_, fabric::make_message<schema::ClusterStatusRequest>([](auto) {}),
                                    kAnswerTimeout);
}

Result<caf::actor> ClusterClient::find(const std::string& actor) {
  TROUPE_ASSIGN_OR_RETURN(const auto message, status());
  const auto status = message.read();
  for (const auto entry : status->getActors()) {
    if (actor != entry.getActor().cStr()) continue;
    TROUPE_ASSIGN_OR_RETURN(const fabric::NodeId node, fabric_->connect(entry.getEndpoint()));
    auto handle = caf::actor_cast<caf::actor>(fabric_->resolve(node, actor));
    if (!handle) return unavailable(actor + " cannot be reached");
    return handle;
  }
  return not_found("the cluster has no actor named " + actor);
}

Result<void> ClusterClient::drain(std::chrono::milliseconds deadline) {
  const auto request = fabric::make_message<schema::Drain>(
      [&](schema::Drain::Builder out) { out.setDeadlineMs(static_cast<std::uint32_t>(deadline.count())); });
  TROUPE_ASSIGN_OR_RETURN(const auto outcome,
                          ask<schema::Outcome>(system_, root_, request, 3 * deadline + kAnswerTimeout));
  return read_outcome(outcome);
}

}  // namespace troupe::cluster
