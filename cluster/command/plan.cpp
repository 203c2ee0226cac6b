#include "cluster/plan.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cluster/command/load_plan.h"
#include "cluster/command/verbs.h"
#include "runtime/model/kv_pages.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

struct PlanOptions {
  std::string file;
  bool as_json = false;
};

using Row = std::vector<std::string>;

// Columns as wide as their widest entry; the last one is not padded.
void print_table(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      std::cout << (c == 0 ? "" : "  ") << row[c];
      if (c + 1 < row.size()) std::cout << std::string(widths[c] - row[c].size(), ' ');
    }
    std::cout << "\n";
  }
}

std::string bytes_text(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double amount = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (amount >= 1024 && unit + 1 < std::size(kUnits)) {
    amount /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", amount, kUnits[unit]);
  return text;
}

std::string_view kind_text(PlannedActor::Kind kind) {
  switch (kind) {
    case PlannedActor::Kind::kGateway: return "gateway";
    case PlannedActor::Kind::kScheduler: return "scheduler";
    case PlannedActor::Kind::kDraft: return "draft";
    case PlannedActor::Kind::kStage: return "stage";
    case PlannedActor::Kind::kShard: return "shard";
    case PlannedActor::Kind::kExpert: return "expert";
  }
  return "";
}

std::string_view exchange_text(Exchange exchange) {
  switch (exchange) {
    case Exchange::kHost: return "host";
    case Exchange::kStaged: return "staged";
    case Exchange::kNccl: return "nccl";
  }
  return "";
}

// How the ranks of stages with GPUs exchange tensors, a line each.
void print_exchanges(const Plan& plan) {
  for (const PlannedActor& actor : plan.actors) {
    if (actor.kind != PlannedActor::Kind::kStage || actor.exchange == Exchange::kHost) continue;
    std::cout << "\nThe ranks of " << actor.name << " exchange "
              << (actor.exchange == Exchange::kNccl ? "by NCCL if all of them find it, else staged through the host"
                                                    : "staged through the host")
              << ": " << actor.exchange_reason << "\n";
  }
}

void print_text(const Plan& plan) {
  std::cout << "cluster " << plan.cluster << ": model " << plan.served_model_name << " (" << plan.model_path << "), "
            << plan.num_layers << " layers in " << plan.stages << " stage(s)"
            << (plan.replicas > 1 ? " of " + std::to_string(plan.replicas) + " replicas" : "") << "\n\n";

  std::vector<Row> actors = {{"ACTOR", "NODE", "DEVICE", "LAYERS", "WEIGHTS", "KV", "SCRATCH", "WHY"}};
  struct Sum {
    std::uint64_t weight_bytes = 0;
    std::uint64_t kv_bytes = 0;
    std::uint64_t scratch_bytes = 0;
  };
  std::map<std::string, Sum> devices;
  for (const PlannedActor& actor : plan.actors) {
    const bool has_layers = actor.ranks > 0;
    actors.push_back({actor.name, actor.node, actor.device ? actor.device->to_string() : "-",
                      has_layers ? std::to_string(actor.first_layer) + "-" + std::to_string(actor.last_layer - 1) : "-",
                      actor.device ? bytes_text(actor.weight_bytes) : "-",
                      actor.device ? bytes_text(actor.kv_bytes) : "-",
                      actor.device ? bytes_text(actor.scratch_bytes) : "-", actor.reason});
    if (actor.device) {
      Sum& sum = devices[actor.node + "/" + actor.device->to_string()];
      sum.weight_bytes += actor.weight_bytes;
      sum.kv_bytes += actor.kv_bytes;
      sum.scratch_bytes += actor.scratch_bytes;
    }
  }
  print_table(actors);

  std::vector<Row> sums = {{"DEVICE", "WEIGHTS", "KV", "SCRATCH"}};
  for (const auto& [device, sum] : devices) {
    sums.push_back({device, bytes_text(sum.weight_bytes), bytes_text(sum.kv_bytes), bytes_text(sum.scratch_bytes)});
  }
  std::cout << "\n";
  print_table(sums);

  std::vector<Row> links = {{"FROM", "TO", "WHAT", "BYTES/TOKEN", "WAY"}};
  for (const PlannedLink& link : plan.links) {
    links.push_back({link.from, link.to, link.what, std::to_string(link.bytes_per_token),
                     link.crosses_nodes ? "between nodes" : "in one process"});
  }
  std::cout << "\n";
  print_table(links);
  print_exchanges(plan);

  std::cout << "\nKV cache: " << plan.num_blocks << " blocks of " << plan.block_size << " tokens in every shard, as "
            << model::kv_dtype_name(plan.kv_dtype) << "; beside them " << plan.num_swap_blocks
            << " for sequences that had to make room; max_model_len " << plan.max_model_len
            << "\nPredicted: " << std::llround(plan.tokens_per_second) << " tokens/s (" << plan.prediction_basis
            << ")\n";
}

void print_json(const Plan& plan) {
  json::array actors;
  for (const PlannedActor& actor : plan.actors) {
    json::object object{{"name", actor.name}, {"kind", kind_text(actor.kind)}, {"node", actor.node}};
    if (actor.kind != PlannedActor::Kind::kGateway) object["replica"] = actor.replica;
    if (actor.kind == PlannedActor::Kind::kStage || actor.kind == PlannedActor::Kind::kShard) {
      object["ranks"] = actor.ranks;
      object["exchange"] = exchange_text(actor.exchange);
      object["exchange_reason"] = actor.exchange_reason;
    }
    if (actor.ranks > 0) {  // a stage and its members
      object["stage"] = actor.stage;
      object["experts"] = actor.experts;
      object["first_layer"] = actor.first_layer;
      object["last_layer"] = actor.last_layer - 1;
    }
    if (actor.kind == PlannedActor::Kind::kShard) object["rank"] = actor.rank;
    if (actor.kind == PlannedActor::Kind::kExpert) object["expert"] = actor.expert;
    if (actor.device) {
      object["device"] = actor.device->to_string();
      object["weight_bytes"] = actor.weight_bytes;
      object["kv_bytes"] = actor.kv_bytes;
      object["scratch_bytes"] = actor.scratch_bytes;
      object["host_bytes"] = actor.host_bytes;
    }
    if (actor.kind == PlannedActor::Kind::kScheduler) object["lookahead"] = actor.lookahead;
    object["reason"] = actor.reason;
    actors.push_back(std::move(object));
  }
  json::array links;
  for (const PlannedLink& link : plan.links) {
    links.push_back({{"from", link.from},
                     {"to", link.to},
                     {"what", link.what},
                     {"bytes_per_token", link.bytes_per_token},
                     {"crosses_nodes", link.crosses_nodes}});
  }
  const json::object object{{"cluster", plan.cluster},
                            {"model", plan.model_path},
                            {"served_model_name", plan.served_model_name},
                            {"num_layers", plan.num_layers},
                            {"replicas", plan.replicas},
                            {"stages", plan.stages},
                            {"max_model_len", plan.max_model_len},
                            {"block_size", plan.block_size},
                            {"num_blocks", plan.num_blocks},
                            {"num_swap_blocks", plan.num_swap_blocks},
                            {"kv_dtype", std::string(model::kv_dtype_name(plan.kv_dtype))},
                            {"tokens_per_second", plan.tokens_per_second},
                            {"prediction_basis", plan.prediction_basis},
                            {"actors", std::move(actors)},
                            {"links", std::move(links)}};
  std::cout << json::serialize(object) << "\n";
}

int run_plan(const PlanOptions& options) {
  const auto loaded = load_plan(options.file, std::cerr);
  if (!loaded) return 2;
  if (options.as_json) {
    print_json(loaded->plan);
  } else {
    print_text(loaded->plan);
  }
  return 0;
}

}  // namespace

VerbRun prepare_plan(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  app.add_option("FILE", options->file, "The topology file")->required();
  app.add_flag("--json", options->as_json, "Print JSON instead of tables; layers and numbers as in the tables");
  app.footer(
      R"(Which actor runs on which node and device and why, bytes of weights and KV cache of each device, bytes that
cross each link for a generated token, and the speed to expect. Nothing is started.

Examples:
  troupe plan examples/topologies/two-by-two.yaml
  troupe plan --json examples/topologies/two-by-two.yaml | jq '.actors[] | [.name, .node]'

Exit codes: 0 planned, 2 the topology is wrong or does not suit the model.)");
  return [options] { return run_plan(*options); };
}

}  // namespace troupe::cluster
