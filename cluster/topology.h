#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/diagnostic.h"
#include "kernels/tensor.h"
#include "runtime/base/device.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// One process of the cluster.
struct NodeSpec {
  Placed<std::string> name;                  // unique; 1 to 64 bytes of [A-Za-z0-9._-]
  Placed<std::string> host{"localhost"};     // where it is started; only "localhost" for now
  Placed<std::string> address{"127.0.0.1"};  // on which its fabric listens, and where the other nodes reach it
  Placed<std::uint16_t> port{0};             // of the fabric; 0 = any free one
  Placed<std::string> netns;                 // network namespace on its host, or empty
  std::vector<Placed<Device>> devices;       // may be empty: such a node runs only gateways and schedulers
};

struct ParallelSpec {
  Placed<std::uint32_t> pipeline{1};  // stages
  Placed<std::uint32_t> tensor{1};    // shards of a stage
  Placed<std::uint32_t> expert{1};    // expert actors of a stage; 1 = none: its shards have the experts
  Placed<std::uint32_t> replicas{1};
};

struct GatewayPlace {
  Placed<std::string> node;
  Placed<std::string> host{"127.0.0.1"};  // of `listen: host:port`
  Placed<std::uint16_t> port{8080};       // 0 = any free one
  Placed<std::string> api_key_file;       // absolute, or empty
};

// "node/device"
struct ShardPlace {
  std::string node;
  Device device;
};

struct StagePlace {
  Place place;
  Placed<std::uint32_t> replica{0};
  std::uint32_t first_layer = 0;
  std::uint32_t last_layer = 0;  // exclusive, unlike the file's `layers: 0-2`
  Place layers_place;
  std::vector<Placed<ShardPlace>> shards;   // in rank order
  std::vector<Placed<ShardPlace>> experts;  // expert actors by their number; empty: the shards have the experts
};

// Which replica answers a request (runtime/engine/replica_router.h).
enum class Routing { kPrefix, kRoundRobin };

// Whether steps are formed before the tokens of the one before are known (EngineOptions::lookahead). kAuto: by replicas
// that are one shard on a GPU.
enum class Lookahead { kAuto, kOn, kOff };

// What `place:` says. The planner places whatever is absent.
struct PlaceSpec {
  std::optional<GatewayPlace> gateway;
  std::optional<Placed<std::string>> scheduler;  // the node of every replica's
  std::vector<StagePlace> stages;                // of replica 0 first; empty = the planner's choice
};

struct LimitOverride {
  std::string name;
  Placed<std::uint64_t> value;
};

struct FabricSpec {
  Placed<std::string> transports;   // UCX transports such as "tcp" or "tcp,sm,self"; empty = FabricOptions' default
  Placed<std::string> secret_file;  // absolute; empty = `troupe up` draws one and hands it to its nodes
};

// What guesses tokens for the model to check (runtime/engine/speculation.h).
struct SpeculationSpec {
  enum class Kind { kOff, kNgram, kDraft };

  Placed<Kind> kind{Kind::kNgram};
  Placed<std::uint32_t> max{kDefaultMax};  // guesses of a sequence in a step

  // Of a draft.
  Placed<std::string> model;             // absolute, as Topology::model
  Placed<std::string> node;              // empty = that of the scheduler
  std::optional<Placed<Device>> device;  // default: the first device of its node

  static constexpr std::uint32_t kDefaultMax = 8;
  static constexpr std::uint32_t kLargestMax = 32;

  std::uint32_t max_guesses() const { return *kind == Kind::kOff ? 0 : *max; }
};

// "off" or "ngram". Errors: anything else.
Result<SpeculationSpec> parse_speculation(std::string_view text);

// The same, or the path of a draft's model, which becomes absolute; as `--speculate` takes it.
Result<SpeculationSpec> parse_speculation_or_draft(std::string_view text);

// A topology file that was read and found right in itself: names resolve, numbers are in range, stages are
// contiguous from layer 0. Whether it suits a model and a machine, the planner says (plan.h).
// A plain value; immutable after reading by convention.
struct Topology {
  std::string file;  // as given by the user; how errors name it
  Placed<std::string> cluster;
  Placed<std::string> model;  // absolute, if it exists; a path in the file is looked for beside the file, then in
                              // the current directory
  Placed<std::string> served_model_name;                  // default: default_model_name(model)
  Placed<kernels::DType> kv_dtype{kernels::DType::kF32};  // what KV pages are stored as
  Placed<std::string> packed_cache;                       // absolute: a folder for packed weights, or empty
  std::vector<NodeSpec> nodes;                            // at least one
  ParallelSpec parallel;
  Placed<Routing> routing{Routing::kPrefix};
  PlaceSpec place;
  SpeculationSpec speculation;
  Placed<Lookahead> lookahead{Lookahead::kAuto};
  Limits limits;                               // defaults with `overrides` applied
  std::vector<LimitOverride> limit_overrides;  // what the file says, for the nodes that must know it too
  FabricSpec fabric;
  std::string record_file;  // of --record, absolute; the file does not say it. Empty = none

  // The node of that name, or null.
  const NodeSpec* find_node(std::string_view name) const;

  // Whether a device that it names is a GPU.
  bool names_gpus() const;
};

// A topology with everything that was found on the way; `topology` is absent if there is an error among it.
struct TopologyReading {
  std::optional<Topology> topology;
  std::vector<Diagnostic> diagnostics;  // in the order of the file
};

// Reads a file of at most Limits().topology_file_bytes. Never throws; a file that cannot be read is an error
// without a place.
TopologyReading read_topology(const std::string& file);

// The same for text that is in memory, without touching the file system: paths stay as they are written.
// `file` only names it in messages.
TopologyReading parse_topology(std::string_view text, std::string_view file);

// What clients call a model unless they are told otherwise: the last part of its path, without ".gguf".
std::string default_model_name(std::filesystem::path model);

// "64", "64KiB", "2GiB", "1.5GB": a number of bytes. Errors: not a number, unknown unit, more than 2^62, a part of a
// byte.
Result<std::uint64_t> parse_bytes(std::string_view text);

// "host:port" or "[v6]:port". Errors: no colon, an empty host, a port outside 0..65535.
Result<std::pair<std::string, std::uint16_t>> parse_endpoint(std::string_view text);

}  // namespace troupe::cluster
