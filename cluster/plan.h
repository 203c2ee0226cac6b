#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/topology.h"
#include "kernels/cuda/gpu_list.h"
#include "runtime/base/device.h"

namespace troupe::model {
struct ModelConfig;
}

namespace troupe::cluster {

// What the planner must know of the machine that `localhost` is.
struct Machine {
  std::vector<std::uint32_t> cores = {0};  // that this process may use, ascending
  double bytes_per_second_per_core = 8e9;  // of streaming weights from memory
  bool measured = false;                   // false: the number above is an assumption
  std::uint64_t memory_bytes = 0;          // of its main memory, or what this process may have of it; 0 = not known
  std::vector<kernels::GpuInfo> gpus;      // by index
  std::string why_no_gpus;                 // for people, where there are none
};

// The cores that this process may use; the bandwidth stays an assumption. GPUs only if `with_gpus`: to ask for them
// takes a moment.
Machine this_machine(bool with_gpus);

// Whether a device of the topology is a GPU.
bool names_gpus(const Topology& topology);

// How the ranks of a stage exchange tensors (ShardSpec in schema/cluster.capnp).
enum class Exchange { kHost, kStaged, kNccl };

// One actor and where it lives.
struct PlannedActor {
  enum class Kind { kGateway, kScheduler, kDraft, kStage, kShard };

  Kind kind = Kind::kGateway;
  std::string name;  // "gateway", "scheduler/REPLICA", "draft/REPLICA", "stage/REPLICA/STAGE",
                     // "shard/REPLICA/STAGE/RANK"
  std::string node;
  std::optional<Device> device;  // of a shard or a draft

  std::uint32_t replica = 0;  // 0 for a gateway, which belongs to none
  std::uint32_t stages = 0;   // of its replica; 0 for a gateway

  // Of stages and shards; 0 otherwise.
  std::uint32_t stage = 0;
  std::uint32_t rank = 0;
  std::uint32_t ranks = 0;        // shards of its stage
  std::uint32_t first_layer = 0;  // layers [first_layer, last_layer)
  std::uint32_t last_layer = 0;

  bool lookahead = false;  // of a scheduler: it forms steps before the tokens of the one before are known

  Exchange exchange = Exchange::kHost;  // of its ranks
  std::string exchange_reason;          // for people

  // Of shards and drafts, on their device.
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes = 0;       // pages of num_blocks blocks
  std::uint64_t scratch_bytes = 0;  // activations of the largest step, and what a group over NCCL exchanges
  std::uint64_t host_bytes = 0;     // scratch in the host's memory, where the device is a GPU

  std::string reason;  // why it is there, for people
};

// Payload bytes from one actor to another for each generated token of one sequence, without the messages' headers.
struct PlannedLink {
  std::string from;
  std::string to;
  std::string what;  // "step", "activation", "all-reduce", "logits", "token"
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

  // The gateway, then replica by replica the scheduler, its draft if there is one, and stage by stage the stage and its
  // shards.
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
// and stage by stage, and share out a range of cores when there are fewer devices than shards; layers are split evenly
// with the remainder to the earlier stages; the gateway goes to the first node, the scheduler beside it; where there
// are several replicas, each one's scheduler goes beside its stage 0, to share its fate. A stage lives on the node of
// its rank 0. Ranks may differ from stage to stage, and stages from replica to replica.
// A draft goes to its scheduler's node, and there to the first device; it may share cores with shards, which rest while
// it works. num_blocks: what kv_memory allows on the tightest shard; if the file does not set kv_memory, no more than a
// full batch of longest sequences can use. max_model_len: if the file does not set it, at most what those blocks hold.
// Errors: layers beyond the model's or missing; ranks that do not divide the model; a max_model_len beyond the model's
// or beyond the blocks; lookahead asked of a replica of several shards; cores that this machine does not have or that
// are closed to this process; GPUs that it does not have, that are too old, or whose memory the weights, pages and
// scratch of their shards and drafts exceed. Warnings: shards that share a core or a GPU, shards and drafts that exceed
// the main memory, nodes without an actor. `draft`: the model of the topology's draft, if it has one and its memory is
// to be counted.
Planning make_plan(const model::ModelConfig& model, const Topology& topology, const Machine& machine,
                   const model::ModelConfig* draft = nullptr);

}  // namespace troupe::cluster
