#include "runtime/fabric/fabric.h"

#include <caf/atom.hpp>

#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/base/log.h"
#include "runtime/fabric/handshake.h"
#include "runtime/fabric/switchboard.h"

namespace troupe::fabric {
namespace {

class ConnectTask final : public Task {
 public:
  ConnectTask(Switchboard& board, std::string endpoint, std::shared_ptr<std::promise<Result<NodeId>>> done)
      : board_(board), endpoint_(std::move(endpoint)), done_(std::move(done)) {}
  void run(std::unique_ptr<Task>) override { board_.connect(endpoint_, std::move(done_)); }

 private:
  Switchboard& board_;
  std::string endpoint_;
  std::shared_ptr<std::promise<Result<NodeId>>> done_;
};

}  // namespace

void configure(caf::actor_system_config& config) {
  // CAF's default policy, stealing, sleeps 50 us between polls.
  config.set("scheduler.policy", caf::atom("sharing"));
}

class Fabric::Impl {
 public:
  Impl(caf::actor_system& system, FabricOptions options, NodeId node)
      : node(std::move(node)),
        context(std::make_shared<FabricContext>(
            FabricContext{system, options.limits, std::move(options.types), std::make_shared<TaskQueue>(),
                          std::make_shared<Exports>(system), std::make_shared<Counters>()})),
        unit(std::make_shared<InlineUnit>(system)),
        peers(std::make_shared<PeerTable>()),
        board(context, unit, this->node, std::move(options.secret), peers,
              [this](const NodeId& peer, const std::string& reason) { tell_lost(peer, reason); }),
        progress(context->tasks, unit, options.limits.spin_us) {}

  ~Impl() {
    progress.stop();
    // Peers that could not be told in time die here; tasks that came too late are refused by the closed queue.
    for (auto& peer : peers->all()) peer->die("this node stops");
    context->tasks->close([](std::unique_ptr<Task> task) {
      auto* raw = task.get();
      raw->run(std::move(task));
    });
    context->exports->clear();
  }

  void tell_lost(const NodeId& peer, const std::string& reason) {
    std::vector<std::function<void(const NodeId&, const std::string&)>> told;
    {
      std::lock_guard lock(observers_mutex);
      told = observers;
    }
    for (auto& observer : told) observer(peer, reason);
  }

  const NodeId node;
  std::shared_ptr<FabricContext> context;
  std::shared_ptr<InlineUnit> unit;
  std::shared_ptr<PeerTable> peers;
  std::mutex observers_mutex;
  std::vector<std::function<void(const NodeId&, const std::string&)>> observers;
  std::unique_ptr<UcxWorker> worker;  // outlives the board's endpoints
  Switchboard board;
  Progress progress;
};

Fabric::Fabric(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Fabric::~Fabric() = default;

Result<std::unique_ptr<Fabric>> Fabric::start(caf::actor_system& system, FabricOptions options) {
  if (!valid_node_name(options.node_name)) {
    return invalid_argument("node name must be 1 to 64 bytes of [A-Za-z0-9._-]", "node_name");
  }
  if (options.secret.empty()) return invalid_argument("the cluster secret is empty", "secret");
  TROUPE_ASSIGN_OR_RETURN(auto incarnation, random_number());
  NodeId node{options.node_name, incarnation};
  auto listen = options.listen;
  auto transports = options.transports;
  auto impl = std::make_unique<Impl>(system, std::move(options), std::move(node));
  TROUPE_ASSIGN_OR_RETURN(impl->worker, UcxWorker::create(listen, transports, impl->board.callbacks()));
  impl->board.set_worker(*impl->worker);
  TROUPE_RETURN_IF_ERROR(impl->progress.start(*impl->worker, impl->board));
  return std::unique_ptr<Fabric>(new Fabric(std::move(impl)));
}

const NodeId& Fabric::node() const { return impl_->node; }
const std::string& Fabric::endpoint() const { return impl_->worker->endpoint(); }

Result<NodeId> Fabric::connect(const std::string& endpoint) {
  if (endpoint == impl_->worker->endpoint()) return impl_->node;
  if (auto peer = impl_->peers->find_address(endpoint)) return peer->node();
  auto done = std::make_shared<std::promise<Result<NodeId>>>();
  auto result = done->get_future();
  if (impl_->context->tasks->push(std::make_unique<ConnectTask>(impl_->board, endpoint, std::move(done)))) {
    return cancelled("the fabric has stopped");
  }
  return result.get();  // the fabric's thread answers within limit connect_timeout_ms
}

void Fabric::publish(const std::string& name, caf::strong_actor_ptr actor) {
  impl_->context->exports->publish(name, std::move(actor));
}

caf::strong_actor_ptr Fabric::resolve(const NodeId& node, const std::string& name) {
  auto number = Exports::number_of(name);
  if (node == impl_->node) return impl_->context->exports->find(number);
  auto peer = impl_->peers->find(node);
  return peer ? peer->proxy(number) : nullptr;
}

void Fabric::run_inline(const caf::strong_actor_ptr& actor) { impl_->unit->add(actor); }

Channel Fabric::open_channel(const NodeId& node, std::uint64_t channel_id) {
  auto peer = impl_->peers->find(node);
  if (peer) return Channel(peer->open_channel(channel_id));
  auto nowhere = std::make_shared<ChannelState>(nullptr, channel_id, 0);
  nowhere->fail(unavailable("node " + to_string(node) + " is not connected"));
  return Channel(std::move(nowhere));
}

void Fabric::on_peer_lost(std::function<void(const NodeId& peer, const std::string& reason)> observer) {
  std::lock_guard lock(impl_->observers_mutex);
  impl_->observers.push_back(std::move(observer));
}

FabricStats Fabric::stats() const {
  const auto& counters = *impl_->context->counters;
  auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  return {.peers = impl_->peers->size(),
          .messages_sent = read(counters.messages_sent),
          .messages_received = read(counters.messages_received),
          .bytes_sent = read(counters.bytes_sent),
          .bytes_received = read(counters.bytes_received),
          .dropped_stale = read(counters.dropped_stale),
          .dropped_unknown_actor = read(counters.dropped_unknown_actor),
          .dropped_overload = read(counters.dropped_overload),
          .dropped_unencodable = read(counters.dropped_unencodable),
          .rejected_frames = read(counters.rejected_frames),
          .queue_bytes = read(counters.queue_bytes),
          .unreleased_bytes = read(counters.unreleased_bytes)};
}

}  // namespace troupe::fabric
