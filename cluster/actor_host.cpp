#include "cluster/actor_host.h"

#include <algorithm>
#include <map>

#include <caf/all.hpp>

#include "actors/draft.h"
#include "actors/expert.h"
#include "actors/gateway/gateway.h"
#include "actors/scheduler.h"
#include "actors/stage.h"
#include "actors/stats.h"
#include "cluster/fabric_metrics.h"
#include "runtime/base/fnv1a.h"
#include "runtime/base/log.h"
#include "runtime/collective/over_fabric.h"
#include "runtime/model/config.h"

namespace troupe::cluster {
namespace {

Result<Limits> read_limits(schema::Spawn::Reader spawn) {
  Limits limits;
  for (const auto entry : spawn.getLimits()) {
    TROUPE_RETURN_IF_ERROR(set_limit(limits, entry.getName().cStr(), entry.getValue()));
  }
  return limits;
}

// The same on both ends of a pair of ranks, different for every pair and epoch.
std::uint64_t channel_id(const collective::GroupKey& key, std::uint32_t rank, std::uint32_t peer) {
  const auto [low, high] = std::minmax(rank, peer);
  return fnv1a("group/" + std::to_string(key.replica) + "/" + std::to_string(key.stage) + "/" +
               std::to_string(key.epoch) + "/" + std::to_string(low) + "/" + std::to_string(high));
}

}  // namespace

fabric::NodeId node_id(schema::NodeId::Reader node) { return {node.getName(), node.getIncarnation()}; }

ActorHost::ActorHost(caf::actor_system& system, fabric::Fabric& fabric)
    : system_(system), fabric_(fabric), metrics_(std::make_shared<Metrics>()) {
  metrics_->add_source([&fabric, node = fabric.node().name] { return fabric_families(fabric.stats(), node); });
}

ActorResolver ActorHost::resolver() const {
  return [fabric = &fabric_](const schema::ActorAddress::Reader& address) {
    return caf::actor_cast<caf::actor>(fabric->resolve(node_id(address.getNode()), address.getActor()));
  };
}

Result<void> ActorHost::connect(schema::ActorAddress::Reader address) const {
  const fabric::NodeId wanted = node_id(address.getNode());
  if (wanted == fabric_.node()) return {};
  TROUPE_ASSIGN_OR_RETURN(const fabric::NodeId found, fabric_.connect(address.getEndpoint()));
  if (found != wanted) {
    return unavailable(std::string(address.getEndpoint()) + " is now " + fabric::to_string(found) + ", expected " +
                       fabric::to_string(wanted));
  }
  return {};
}

caf::actor ActorHost::start_supervisor(std::function<void()> on_drained,
                                       std::function<void(const std::string&)> on_fatal) {
  SupervisorOptions options;
  options.make_actor = [this](schema::Spawn::Reader spawn) { return make_actor(spawn); };
  options.publish = [this](const std::string& name, const caf::actor& actor) {
    fabric_.publish(name, caf::actor_cast<caf::strong_actor_ptr>(actor));
  };
  options.connect = [this](schema::ActorAddress::Reader address) { return connect(address); };
  options.write_stats = [this](schema::Stats::Builder stats) {
    stats.setActor(kSupervisorName);
    stats.initNode().setName(fabric_.node().name);
    stats.getNode().setIncarnation(fabric_.node().incarnation);
    write_families(metrics_->collect(), stats);
  };
  options.on_drained = std::move(on_drained);
  options.on_fatal = std::move(on_fatal);
  caf::actor supervisor = spawn_supervisor(system_, std::move(options));
  fabric_.publish(kSupervisorName, caf::actor_cast<caf::strong_actor_ptr>(supervisor));
  return supervisor;
}

Result<HostedActor> ActorHost::make_actor(schema::Spawn::Reader spawn) {
  TROUPE_ASSIGN_OR_RETURN(const Limits limits, read_limits(spawn));
  switch (spawn.which()) {
    case schema::Spawn::GATEWAY: return make_gateway(spawn, limits);
    case schema::Spawn::SCHEDULER: return make_scheduler(spawn, limits);
    case schema::Spawn::STAGE: {
      const auto stage = spawn.getStage();
      return HostedActor{.handle = spawn_stage(system_, {.replica = stage.getReplica(),
                                                         .stage = stage.getStage(),
                                                         .stages = stage.getStages(),
                                                         .ranks = stage.getRanks(),
                                                         .resolve = resolver(),
                                                         .node = fabric_.node().name,
                                                         .incarnation = fabric_.node().incarnation})};
    }
    case schema::Spawn::DRAFT: {
      DraftOptions options = {.limits = limits, .node = fabric_.node().name, .incarnation = fabric_.node().incarnation};
      return HostedActor{.handle = spawn_draft(system_, std::move(options)), .answers_spawn = true};
    }
    case schema::Spawn::EXPERT: {
      ExpertOptions options = {
          .limits = limits, .node = fabric_.node().name, .incarnation = fabric_.node().incarnation};
      return HostedActor{.handle = spawn_expert(system_, std::move(options)), .answers_spawn = true};
    }
    case schema::Spawn::SHARD: {
      ShardOptions options = {.resolve = resolver(),
                              .make_communicator = communicator_factory(limits),
                              .limits = limits,
                              .node = fabric_.node().name,
                              .incarnation = fabric_.node().incarnation};
      return HostedActor{.handle = spawn_shard(system_, std::move(options)), .answers_spawn = true};
    }
  }
  return unsupported("a kind of actor that this version does not know");
}

CommunicatorFactory ActorHost::communicator_factory(const Limits& limits) {
  const auto timeout = std::chrono::milliseconds(limits.step_timeout_ms);
  return [this, timeout, connect_timeout_ms = limits.connect_timeout_ms](
             schema::ShardSpec::Reader spec,
             schema::Assemble::Reader plan) -> Result<std::unique_ptr<collective::Communicator>> {
    const collective::GroupKey key = {spec.getReplica(), spec.getStage(), plan.getEpoch()};
    std::map<std::string, fabric::NodeId> nodes;  // by actor
    for (const auto address : plan.getActors()) nodes[address.getActor()] = node_id(address.getNode());

    std::vector<fabric::Channel> channels(spec.getRanks());
    std::uint32_t local_ranks = 0;
    for (std::uint32_t rank = 0; rank < spec.getRanks(); ++rank) {
      const auto found = nodes.find(shard_name(key.replica, key.stage, rank));
      if (found == nodes.end()) return not_found("the plan has no " + shard_name(key.replica, key.stage, rank));
      if (found->second == fabric_.node()) {
        ++local_ranks;
      } else {
        channels[rank] = fabric_.open_channel(found->second, channel_id(key, spec.getRank(), rank));
      }
    }
    if (local_ranks == spec.getRanks()) return groups_.join(key, spec.getRank(), spec.getRanks(), timeout);
    if (local_ranks > 1) {
      return unsupported("the ranks of a stage live either all on one node or each on a node of its own");
    }
    const auto agreement = std::chrono::milliseconds(connect_timeout_ms);
    TROUPE_ASSIGN_OR_RETURN(auto links, collective::make_links(spec.getRank(), std::move(channels), agreement));
    return collective::make_group_over_fabric(spec.getRank(), std::move(links), timeout);
  };
}

Result<HostedActor> ActorHost::make_gateway(schema::Spawn::Reader spawn, const Limits& limits) const {
  const auto spec = spawn.getGateway();
  const auto model_spec = spawn.getModel();
  const std::string path = model_spec.getPath();
  TROUPE_ASSIGN_OR_RETURN(const model::ModelConfig config, model::load_config(path, limits));
  GatewayOptions options;
  options.actor = spawn.getActor();
  options.node = fabric_.node().name;
  options.incarnation = fabric_.node().incarnation;
  options.listen = spec.getListen();
  options.served_name = model_spec.getServedName();
  options.model_path = path;
  options.vocab_size = config.vocab_size;
  options.max_model_len = model_spec.getMaxModelLen();
  options.eos_token_ids = config.eos_token_ids;
  options.sampling = config.sampling;
  options.version = TROUPE_VERSION;
  using Policy = engine::ReplicaRouterOptions::Policy;
  const bool by_prefix = spec.getRouting() == schema::GatewaySpec::Routing::PREFIX;
  options.routing = {.policy = by_prefix ? Policy::kPrefix : Policy::kRoundRobin,
                     .block_size = model_spec.getBlockSize(),
                     .num_blocks = limits.prefix_cache_blocks == 0 ? 0 : model_spec.getNumBlocks(),
                     .seed = fabric_.node().incarnation};
  options.limits = limits;
  options.metrics = metrics_;
  options.resolver = resolver();
  if (spec.getApiKeyFile().size() > 0) {
    TROUPE_ASSIGN_OR_RETURN(options.api_keys, read_api_keys(std::string(spec.getApiKeyFile())));
  }
  TROUPE_ASSIGN_OR_RETURN(Gateway gateway, spawn_gateway(system_, std::move(options)));
  return HostedActor{.handle = gateway.actor, .detail = "http://" + gateway.address};
}

Result<HostedActor> ActorHost::make_scheduler(schema::Spawn::Reader spawn, const Limits& limits) const {
  const auto model_spec = spawn.getModel();
  SchedulerOptions options;
  options.replica = spawn.getScheduler().getReplica();
  options.engine = {.num_blocks = model_spec.getNumBlocks(),
                    .num_swap_blocks = model_spec.getNumSwapBlocks(),
                    .block_size = model_spec.getBlockSize(),
                    .max_model_len = model_spec.getMaxModelLen(),
                    .max_batch_tokens = model_spec.getMaxBatchTokens(),
                    .max_batch_sequences = model_spec.getMaxBatchSequences(),
                    .pipeline_stages = spawn.getScheduler().getPipelineStages(),
                    .max_guesses = spawn.getScheduler().getMaxGuesses(),
                    .uses_draft = spawn.getScheduler().getDraft(),
                    .lookahead = spawn.getScheduler().getLookahead(),
                    .limits = limits};
  options.record_file = spawn.getScheduler().getRecordFile();
  options.resolve = resolver();
  TROUPE_ASSIGN_OR_RETURN(caf::actor scheduler, spawn_scheduler(system_, std::move(options)));
  return HostedActor{.handle = std::move(scheduler)};
}

}  // namespace troupe::cluster
