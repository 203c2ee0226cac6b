#include "cluster/orders.h"

#include "runtime/model/kv_pages.h"
#include "schema/cluster.capnp.h"

namespace troupe::cluster {
namespace {

void write_model(const Plan& plan, const Limits& limits, schema::ModelSpec::Builder out) {
  out.setPath(plan.model_path);
  out.setServedName(plan.served_model_name);
  out.setMaxModelLen(plan.max_model_len);
  out.setBlockSize(plan.block_size);
  out.setNumBlocks(plan.num_blocks);
  out.setNumSwapBlocks(plan.num_swap_blocks);
  out.setKvDtype(std::string(model::kv_dtype_name(plan.kv_dtype)));
  out.setPackedCache(plan.packed_cache);
  out.setMaxBatchTokens(static_cast<std::uint32_t>(limits.max_batch_tokens));
  out.setMaxBatchSequences(static_cast<std::uint32_t>(limits.max_batch_sequences));
}

void write_gateway(const Topology& topology, schema::GatewaySpec::Builder out) {
  const GatewayPlace place = topology.place.gateway.value_or(GatewayPlace{});
  const bool is_v6 = place.host->find(':') != std::string::npos;
  out.setListen((is_v6 ? "[" + *place.host + "]" : *place.host) + ":" + std::to_string(*place.port));
  out.setApiKeyFile(*place.api_key_file);
  out.setRouting(*topology.routing == Routing::kPrefix ? schema::GatewaySpec::Routing::PREFIX
                                                       : schema::GatewaySpec::Routing::ROUND_ROBIN);
}

schema::ShardSpec::Exchange exchange_of(Exchange exchange) {
  switch (exchange) {
    case Exchange::kHost: return schema::ShardSpec::Exchange::HOST;
    case Exchange::kStaged: return schema::ShardSpec::Exchange::STAGED;
    case Exchange::kNccl: return schema::ShardSpec::Exchange::NCCL;
  }
  return schema::ShardSpec::Exchange::HOST;
}

void write_role(const Plan& plan, const Topology& topology, const PlannedActor& actor, schema::Spawn::Builder out) {
  switch (actor.kind) {
    case PlannedActor::Kind::kGateway: write_gateway(topology, out.initGateway()); return;
    case PlannedActor::Kind::kScheduler: {
      auto scheduler = out.initScheduler();
      scheduler.setPipelineStages(actor.stages);
      scheduler.setReplica(actor.replica);
      // One record a scheduler.
      const bool is_one_of_several = plan.replicas > 1 && !topology.record_file.empty();
      scheduler.setRecordFile(topology.record_file + (is_one_of_several ? "." + std::to_string(actor.replica) : ""));
      scheduler.setMaxGuesses(topology.speculation.max_guesses());
      scheduler.setDraft(*topology.speculation.kind == SpeculationSpec::Kind::kDraft);
      scheduler.setLookahead(actor.lookahead);
      return;
    }
    case PlannedActor::Kind::kDraft: {
      auto draft = out.initDraft();
      draft.setPath(*topology.speculation.model);
      draft.setDevice(actor.device->to_string());
      return;
    }
    case PlannedActor::Kind::kStage: {
      auto stage = out.initStage();
      stage.setReplica(actor.replica);
      stage.setStage(actor.stage);
      stage.setStages(actor.stages);
      stage.setRanks(actor.ranks);
      return;
    }
    case PlannedActor::Kind::kShard: {
      auto shard = out.initShard();
      shard.setReplica(actor.replica);
      shard.setStage(actor.stage);
      shard.setStages(actor.stages);
      shard.setRank(actor.rank);
      shard.setRanks(actor.ranks);
      shard.setFirstLayer(actor.first_layer);
      shard.setLastLayer(actor.last_layer);
      shard.setDevice(actor.device->to_string());
      shard.setExchange(exchange_of(actor.exchange));
      shard.setExchangeReason(actor.exchange_reason);
      shard.setExperts(actor.experts);
      return;
    }
    case PlannedActor::Kind::kExpert: {
      auto expert = out.initExpert();
      expert.setReplica(actor.replica);
      expert.setStage(actor.stage);
      expert.setExpert(actor.expert);
      expert.setExperts(actor.experts);
      expert.setFirstLayer(actor.first_layer);
      expert.setLastLayer(actor.last_layer);
      expert.setDevice(actor.device->to_string());
      return;
    }
  }
}

}  // namespace

std::vector<ActorOrder> make_orders(const Plan& plan, const Topology& topology) {
  std::vector<ActorOrder> orders;
  for (const PlannedActor& actor : plan.actors) {
    auto spawn = fabric::make_message<schema::Spawn>([&](schema::Spawn::Builder out) {
      out.setActor(actor.name);
      write_model(plan, topology.limits, out.initModel());
      auto limits = out.initLimits(topology.limit_overrides.size());
      for (std::size_t i = 0; i < topology.limit_overrides.size(); ++i) {
        limits[i].setName(topology.limit_overrides[i].name);
        limits[i].setValue(*topology.limit_overrides[i].value);
      }
      write_role(plan, topology, actor, out);
    });
    const bool of_all = actor.kind == PlannedActor::Kind::kGateway;
    orders.push_back({.actor = actor.name,
                      .node = actor.node,
                      .device = actor.device ? actor.device->to_string() : "",
                      .replica = of_all ? std::nullopt : std::optional(actor.replica),
                      .spawn = std::move(spawn)});
  }
  return orders;
}

}  // namespace troupe::cluster
