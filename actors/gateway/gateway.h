#pragma once

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/metrics.h"
#include "runtime/base/result.h"
#include "runtime/engine/replica_router.h"
#include "runtime/model/config.h"
#include "schema/address.capnp.h"

namespace troupe {

// 1. of a request's path: accepts HTTP, tokenizes, admits, sends Generate to the scheduler and streams its Deltas.
struct GatewayOptions {
  std::string actor = "gateway";             // the name in Stats
  std::string node;                          // of its process, in Stats
  std::uint64_t incarnation = 0;             // of its process, in Stats and in response ids
  std::string listen = "127.0.0.1:8080";     // "host:port", "[::1]:8080"; port 0 = any free one
  std::string served_name;                   // what clients call the model
  std::filesystem::path model_path;          // of tokenizer and chat template; without a tokenizer, only token ids
  std::uint32_t vocab_size = 0;              // of the model: ids from outside are below it
  std::uint32_t max_model_len = 0;           // prompt and answer together
  std::vector<std::uint32_t> eos_token_ids;  // end an answer unless the request says ignore_eos
  model::SamplingDefaults sampling;          // where a request does not say
  std::vector<std::string> api_keys;         // empty = no key needed
  std::string version = "0.1.0";
  engine::ReplicaRouterOptions routing;  // among the replicas of the model
  Limits limits;
  std::shared_ptr<Metrics> metrics;  // of the process; made if null
  // The actor behind an address of Assemble, or an invalid handle. Called on the gateway's own thread.
  std::function<caf::actor(schema::ActorAddress::Reader)> resolver;
};

struct Gateway {
  caf::actor actor;
  std::string address;  // the address in use, "127.0.0.1:8080"
  std::uint16_t port = 0;
};

// Starts a gateway; returns when its port is bound. Not ready (503) until an Assemble message names a scheduler.
// Errors: address taken, tokenizer that cannot be read, options out of range.
//
// Messages it answers: Assemble -> Outcome, Drain -> Outcome, StatsRequest -> Stats; it takes Lost and Deltas.
// It ends, cutting what still streams, on an exit message.
Result<Gateway> spawn_gateway(caf::actor_system& system, GatewayOptions options);

// The keys of a file, one a line; blank lines and lines that begin with # do not count. The error names the file.
Result<std::vector<std::string>> read_api_keys(const std::filesystem::path& file);

}  // namespace troupe
