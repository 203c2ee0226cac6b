#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/machine.h"
#include "cluster/topology.h"
#include "runtime/base/device.h"

namespace troupe::model {
struct ModelConfig;
}

namespace troupe::cluster {

// How the ranks of a stage exchange tensors (ShardSpec in schema/cluster.capnp).
enum class Exchange { kHost, kStaged, kNccl };

// One actor and where it lives.
struct PlannedActor {
  enum class Kind { kGateway, kScheduler, kDraft, kStage, kShard, kExpert };

  Kind kind = Kind::kGateway;
  std::string name;  // "gateway", "scheduler/REPLICA", "draft/REPLICA", "stage/REPLICA/STAGE",
                     // "shard/REPLICA/STAGE/RANK", "expert/REPLICA/STAGE/NUMBER"
  std::string node;
  std::optional<Device> device;  // of a shard, an expert or a draft

  std::uint32_t replica = 0;  // 0 for a gateway, which belongs to none
  std::uint32_t stages = 0;   // of its replica; 0 for a gateway

  // Of stages, shards and experts; 0 otherwise.
  std::uint32_t stage = 0;
  std::uint32_t rank = 0;         // of a shard
  std::uint32_t ranks = 0;        // shards of its stage
  std::uint32_t expert = 0;       // of an expert: its number
  std::uint32_t experts = 0;      // expert actors of its stage; 0: the shards have the experts
  std::uint32_t first_layer = 0;  // layers [first_layer, last_layer)
  std::uint32_t last_layer = 0;

  bool lookahead = false;  // of a scheduler: it forms steps before the tokens of the one before are known

  Exchange exchange = Exchange::kHost;  // of its ranks
  std::string exchange_reason;          // for people

  // Of shards, experts and drafts, on their device.
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes = 0;       // pages of num_blocks blocks
  std::uint64_t scratch_bytes = 0;  // activations of the largest step, and what a group over NCCL exchanges
  std::uint64_t host_bytes = 0;     // scratch in the host's memory, where the device is a GPU

  std::string reason;  // why it is there, for people
};

// Payload bytes from one actor to another for each generated token of one sequence, without the messages' headers. Of
// experts: if all of a layer are chosen equally often.
struct PlannedLink {
  std::string from;
  std::string to;
  std::string what;  // "step", "activation", "all-reduce", "dispatch", "combine", "logits", "token"
  std::uint64_t bytes_per_token = 0;
  bool crosses_nodes = false;
};

// Who runs where, before anything starts.
struct Plan {
  std::string cluster;
  std::string model_path;
  std::string served_model_name;

  std::uint32_t replicas = 0;
  std::uint32_t stages = 0;      // of all replicas
  std::uint32_t num_layers = 0;  // of the model
  std::uint32_t max_model_len = 0;
  std::uint32_t block_size = 0;  // tokens of a KV block
  kernels::DType kv_dtype = kernels::DType::kF32;
  std::string packed_cache;           // as in the topology
  std::uint32_t num_blocks = 0;       // of every shard: what the tightest one can hold within kv_memory
  std::uint32_t num_swap_blocks = 0;  // beside the pages: likewise within swap_memory

  // The gateway, then replica by replica the scheduler, its draft if there is one, and stage by stage the stage, its
  // shards and its experts.
  std::vector<PlannedActor> actors;
  std::vector<PlannedLink> links;

  double tokens_per_second = 0;  // predicted for one sequence on the fastest replica: each stage in turn streams its
                                 // weights from memory
  std::string prediction_basis;  // what that number assumes, for people

  const PlannedActor* find(const std::string& name) const;
};

struct Planning {
  std::optional<Plan> plan;  // absent if there is an error among the diagnostics
  std::vector<Diagnostic> diagnostics;
};

// Pure: the same arguments give the same plan, and nothing else is looked at.
// Places whatever `topology.place` leaves open: shards go to the devices in the order of the file, replica by replica
// and stage by stage, and share out a range of cores when there are fewer devices than shards; expert actors go to the
// devices behind those of the shards in the same way, to all of them if none is left, and stages in which no layer has
// experts get none; layers are split evenly
// with the remainder to the earlier stages; the gateway goes to the first node, the scheduler beside it; where there
// are several replicas, each one's scheduler goes beside its stage 0, to share its fate. A stage lives on the node of
// its rank 0. Ranks may differ from stage to stage, and stages from replica to replica.
// A draft goes to its scheduler's node, and there to the first device; it may share cores with shards, which rest while
// it works. num_blocks: what kv_memory allows on the tightest shard; if it is not set, what GPUs have left
// (kv_share.h), at most what a full batch of longest sequences can use. max_model_len: if the file does not set it, at
// most what those blocks hold. Errors: layers beyond the model's or missing; ranks that do not divide the model; a
// max_model_len beyond the model's or beyond the blocks; expert actors of a model or a stage without experts, or more
// of them than experts; lookahead asked of a replica of several shards, or with expert actors; cores that this machine
// does not have or that are closed to this process; GPUs that it does not have, that are too old, or whose memory the
// weights, pages and scratch of their shards and drafts exceed. Warnings: shards that share a core or a GPU, shards and
// drafts that exceed the main memory, nodes without an actor. `draft`: the model of the topology's draft, if it has one
// and its memory is to be counted.
Planning make_plan(const model::ModelConfig& model, const Topology& topology, const Machine& machine,
                   const model::ModelConfig* draft = nullptr);

}  // namespace troupe::cluster
