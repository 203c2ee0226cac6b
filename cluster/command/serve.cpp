#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "cluster/command/load_plan.h"
#include "cluster/command/verbs.h"
#include "cluster/run_cluster.h"
#include "runtime/base/log.h"
#include "runtime/model/kv_pages.h"

namespace troupe::cluster {
namespace {

struct ServeOptions {
  std::string model;
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  std::string served_model_name;
  std::uint64_t max_model_len = 0;
  std::string kv_memory;
  std::string kv_dtype = "f32";
  std::string packed_cache;
  std::string speculate = "ngram";
  std::string api_key_file;
  std::uint32_t threads = 0;
  std::vector<std::string> devices;
  std::string log_level = "warn";
  std::string log_format = "text";
  std::string record;
};

// The one-node topology that a serve command means.
Result<Topology> topology_of(const ServeOptions& options) {
  std::error_code error;
  const auto model = std::filesystem::canonical(options.model, error);
  if (error) {
    return not_found(options.model + ": " + error.message() + "; MODEL is a Hugging Face directory or a .gguf file");
  }
  // The first cores that this process may use; a device is a range of them without a gap.
  const std::vector<std::uint32_t> cores = this_machine(false).cores;
  std::uint32_t threads = options.threads;
  if (threads == 0) {
    while (threads < cores.size() && cores[threads] == cores.front() + threads) ++threads;
  }
  std::vector<Placed<Device>> devices;
  for (const std::string& text : options.devices) {
    auto device = parse_device(text);
    if (!device.ok()) return invalid_argument("--device: " + device.error().message);
    devices.push_back(*device);
  }
  if (devices.empty()) {
    devices = {Device{.kind = Device::Kind::kCpu, .first = cores.front(), .last = cores.front() + threads - 1}};
  }
  Topology topology;
  topology.file = "troupe serve";
  topology.cluster = "serve-" + std::to_string(options.port);
  topology.model = model.string();
  topology.served_model_name =
      options.served_model_name.empty() ? default_model_name(model) : options.served_model_name;
  NodeSpec node;
  node.name = std::string("local");
  node.devices = devices;
  topology.parallel.tensor = static_cast<std::uint32_t>(devices.size());
  topology.nodes = {node};
  GatewayPlace gateway;
  gateway.node = std::string("local");
  gateway.host = options.host;
  gateway.port = options.port;
  if (!options.api_key_file.empty()) {
    gateway.api_key_file = std::filesystem::absolute(options.api_key_file).string();
  }
  topology.place.gateway = gateway;
  const auto limit = [&](const std::string& name, std::uint64_t value) -> Result<void> {
    TROUPE_RETURN_IF_ERROR(set_limit(topology.limits, name, value));
    topology.limit_overrides.push_back({name, value});
    return {};
  };
  if (options.max_model_len != 0) TROUPE_RETURN_IF_ERROR(limit("max_model_len", options.max_model_len));
  if (!options.kv_memory.empty()) {
    TROUPE_ASSIGN_OR_RETURN(const std::uint64_t bytes, parse_bytes(options.kv_memory));
    TROUPE_RETURN_IF_ERROR(limit("kv_memory", bytes));
  }
  TROUPE_ASSIGN_OR_RETURN(const kernels::DType kv_dtype, model::parse_kv_dtype(options.kv_dtype));
  topology.kv_dtype = kv_dtype;
  if (!options.packed_cache.empty()) topology.packed_cache = {std::filesystem::absolute(options.packed_cache).string()};
  if (!options.record.empty()) topology.record_file = std::filesystem::absolute(options.record).string();
  auto speculation = parse_speculation_or_draft(options.speculate);
  if (!speculation.ok()) return invalid_argument("--speculate: " + speculation.error().message);
  topology.speculation = *std::move(speculation);
  return topology;
}

int run_serve(const ServeOptions& options) {
  auto topology = topology_of(options);
  if (!topology.ok()) {
    fmt::print(stderr, "troupe: {}\n", topology.error().message);
    return 2;
  }
  auto loaded = load_plan(TopologyReading{.topology = *std::move(topology)}, "troupe serve", std::cerr);
  if (!loaded) return 2;
  if (auto logging = start_logging("serve", options.log_level, options.log_format); !logging.ok()) {
    fmt::print(stderr, "troupe: {}\n", logging.error().message);
    return 2;
  }
  return run_cluster({.topology = std::move(loaded->topology),
                      .plan = std::move(loaded->plan),
                      .program = std::filesystem::read_symlink("/proc/self/exe").string(),
                      .log_level = options.log_level,
                      .log_format = options.log_format,
                      .in_process = true});
}

}  // namespace

VerbRun prepare_serve(CLI::App& app) {
  auto options = std::make_shared<ServeOptions>();
  app.add_option("model", options->model, "a Hugging Face model directory or a .gguf file")->required();
  app.add_option("--host", options->host, "address to listen on")->capture_default_str();
  app.add_option("--port", options->port, "port to listen on; 0 = any free one")->capture_default_str();
  app.add_option("--served-model-name", options->served_model_name,
                 "what clients call it; default: the model's own name");
  app.add_option("--max-model-len", options->max_model_len, "prompt and answer together; default: the model's");
  app.add_option("--kv-memory", options->kv_memory, "for KV pages, such as 2GiB; default 256MiB");
  app.add_option("--kv-dtype", options->kv_dtype, "what KV pages are stored as: f32, f16, bf16, int8 or fp8")
      ->capture_default_str();
  app.add_option("--packed-cache", options->packed_cache, "a folder that keeps packed weights for later starts");
  app.add_option(
         "--speculate", options->speculate,
         "what guesses tokens for the model to check: ngram (the text so far), off, or a draft's model directory")
      ->capture_default_str();
  app.add_option("--api-key-file", options->api_key_file, "accept only these keys, one a line");
  app.add_option("--record", options->record, "keep what the scheduler is told and decides, for troupe replay");
  auto* threads = app.add_option("--threads", options->threads, "cores to compute on; default: all");
  app.add_option("--device", options->devices,
                 "instead: cpu:N, cpu:N-M or cuda:N; several share the model out, one tensor-parallel rank each")
      ->delimiter(',')
      ->excludes(threads);
  app.add_option("--log-level", options->log_level, "trace, debug, info, warn, error")->capture_default_str();
  app.add_option("--log-format", options->log_format, "text or json")->capture_default_str();
  app.footer(
      "Serves one model from this one process: `up` on a topology of one node.\n\n"
      "  troupe serve examples/models/tutor\n"
      "  troupe serve qwen2.5-0.5b-instruct-q8_0.gguf\n"
      "  troupe serve meta-llama-3-8b --device cuda:0\n"
      "  curl http://127.0.0.1:8080/v1/models");
  return [options] { return run_serve(*options); };
}

}  // namespace troupe::cluster
