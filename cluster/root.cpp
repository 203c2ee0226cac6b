#include "cluster/root.h"

#include <unistd.h>

#include <caf/all.hpp>
#include <csignal>

#include "cluster/launch/local.h"
#include "cluster/network_namespace.h"
#include "cluster/orders.h"
#include "cluster/secret.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

// Of the launching process; no node of a topology can have it, because names begin with a letter or a digit.
const std::string kRootNodeName = "_root";

void report_exit(const caf::actor& root, const std::string& node, std::uint32_t pid, const std::string& reason) {
  caf::anon_send(root, fabric::make_message<schema::NodeExited>([&](schema::NodeExited::Builder out) {
                   out.setNode(node);
                   out.setPid(pid);
                   out.setReason(reason);
                 }));
}

}  // namespace

Result<std::unique_ptr<Root>> Root::start(caf::actor_system& system, RootOptions options) {
  const NodeSpec& first = options.topology.nodes.front();
  std::unique_ptr<fabric::Fabric> fabric;
  TROUPE_RETURN_IF_ERROR(run_in_network_namespace(*first.netns, [&]() -> Result<void> {
    TROUPE_ASSIGN_OR_RETURN(
        fabric, fabric::Fabric::start(system, {.node_name = options.in_process ? *first.name : kRootNodeName,
                                               .listen = *first.address + ":0",
                                               .secret = options.secret,
                                               .limits = options.topology.limits,
                                               .types = fabric::schema_message_types(),
                                               .transports = *options.topology.fabric.transports}));
    return {};
  }));
  TROUPE_ASSIGN_OR_RETURN(auto launcher, make_local_launcher());
  std::unique_ptr<Root> root(new Root(system, std::move(options), std::move(fabric), std::move(launcher)));
  root->start_supervisor();
  return root;
}

Root::Root(caf::actor_system& system, RootOptions options, std::unique_ptr<fabric::Fabric> fabric,
           std::unique_ptr<Launcher> launcher)
    : system_(system),
      options_(std::move(options)),
      fabric_(std::move(fabric)),
      host_(system, *fabric_),
      launcher_(std::move(launcher)) {}

Root::~Root() {
  caf::anon_send_exit(supervisor_, caf::exit_reason::user_shutdown);
  if (node_supervisor_) caf::anon_send_exit(node_supervisor_, caf::exit_reason::user_shutdown);
  std::map<std::string, std::unique_ptr<Process>> processes;
  {
    std::lock_guard lock(mutex_);
    processes.swap(processes_);
  }
  processes.clear();
  launcher_.reset();
}

void Root::start_supervisor() {
  RootSupervisorOptions supervisor;
  supervisor.cluster = *options_.topology.cluster;
  for (const NodeSpec& node : options_.topology.nodes) supervisor.nodes.push_back(*node.name);
  supervisor.actors = make_orders(options_.plan, options_.topology);
  supervisor.limits = options_.topology.limits;
  supervisor.start_node = [this](const std::string& node, const caf::actor& root) {
    return options_.in_process ? start_node_in_process(node, root) : start_node(node, root);
  };
  supervisor.kill_node = [this](const std::string& node) { kill_node(node); };
  supervisor.connect = [this](schema::ActorAddress::Reader address) { return host_.connect(address); };
  supervisor.resolve = host_.resolver();
  supervisor.events = options_.events;
  supervisor_ = spawn_root_supervisor(system_, std::move(supervisor));
  fabric_->publish(kRootSupervisorName, caf::actor_cast<caf::strong_actor_ptr>(supervisor_));
}

Command Root::command_of(const NodeSpec& node) const {
  Command command;
  command.argv = {options_.program, "node",
                  "--name",         *node.name,
                  "--listen",       *node.address + ":" + std::to_string(*node.port),
                  "--root",         fabric_->endpoint(),
                  "--log-level",    options_.log_level,
                  "--log-format",   options_.log_format};
  if (const std::string& transports = *options_.topology.fabric.transports; !transports.empty()) {
    command.argv.insert(command.argv.end(), {"--transports", transports});
  }
  for (const LimitOverride& limit : options_.topology.limit_overrides) {
    command.argv.insert(command.argv.end(), {"--limit", limit.name + "=" + std::to_string(*limit.value)});
  }
  command.environment = {{kSecretVariable, options_.secret}};
  return command;
}

Result<std::uint32_t> Root::start_node(const std::string& name, const caf::actor& root) {
  const NodeSpec& node = *options_.topology.find_node(name);
  TROUPE_ASSIGN_OR_RETURN(auto process, launcher_->start(node, command_of(node), [name, root](const ProcessExit& exit) {
    report_exit(root, name, static_cast<std::uint32_t>(exit.pid), exit.to_string());
  }));
  const auto pid = static_cast<std::uint32_t>(process->pid());
  std::lock_guard lock(mutex_);
  processes_[name] = std::move(process);
  return pid;
}

Result<std::uint32_t> Root::start_node_in_process(const std::string& name, const caf::actor& root) {
  const auto pid = static_cast<std::uint32_t>(getpid());
  node_supervisor_ =
      host_.start_supervisor([root, name, pid] { report_exit(root, name, pid, "drained"); },
                             [this](const std::string& reason) { options_.events.on_failed(internal_error(reason)); });
  caf::anon_send(root, fabric::make_message<schema::Join>([&](schema::Join::Builder out) {
                   out.initNode().setName(name);
                   out.getNode().setIncarnation(fabric_->node().incarnation);
                   out.setEndpoint(fabric_->endpoint());
                   out.setPid(pid);
                 }));
  return pid;
}

void Root::kill_node(const std::string& name) {
  if (options_.in_process) {
    options_.events.on_failed(internal_error("node " + name + " does not answer"));
    return;
  }
  std::lock_guard lock(mutex_);
  const auto found = processes_.find(name);
  if (found == processes_.end()) return;
  if (auto killed = found->second->signal(SIGKILL); !killed.ok()) {
    spdlog::error("node {} cannot be killed: {}", name, killed.error().message);
  }
}

void Root::drain(std::uint64_t deadline_ms) {
  caf::anon_send(supervisor_, fabric::make_message<schema::Drain>([&](schema::Drain::Builder out) {
                   out.setDeadlineMs(static_cast<std::uint32_t>(deadline_ms));
                 }));
}

}  // namespace troupe::cluster
