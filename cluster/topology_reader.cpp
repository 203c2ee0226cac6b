#include "cluster/topology_reader.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "cluster/place_reader.h"
#include "cluster/topology_checks.h"
#include "cluster/value_reader.h"
#include "runtime/base/log.h"
#include "runtime/model/kv_pages.h"

namespace troupe::cluster {
namespace {

constexpr std::size_t kMaxNodes = 1024;
constexpr std::size_t kMaxDevices = 256;  // of one node

class Reader : private ValueReader {
 public:
  Reader(Topology& topology, Diagnostics& diagnostics) : ValueReader(diagnostics), topology_(topology) {}

  void read(const DocumentNode& root) {
    keys(root, "the topology", {"model", "nodes"},
         {
             {"cluster", [&](const DocumentNode& v) { name(v, "a cluster's name", topology_.cluster); }},
             {"model", [&](const DocumentNode& v) { text(v, topology_.model); }},
             {"served_model_name", [&](const DocumentNode& v) { text(v, topology_.served_model_name); }},
             {"kv_dtype", [&](const DocumentNode& v) { kv_dtype(v); }},
             {"packed_cache", [&](const DocumentNode& v) { packed_cache(v); }},
             {"nodes", [&](const DocumentNode& v) { nodes(v); }},
             {"parallel", [&](const DocumentNode& v) { parallel(v); }},
             {"routing", [&](const DocumentNode& v) { routing(v); }},
             {"place", [&](const DocumentNode& v) { topology_.place = read_place(v, diagnostics_); }},
             {"speculation", [&](const DocumentNode& v) { speculation(v); }},
             {"lookahead", [&](const DocumentNode& v) { lookahead(v); }},
             {"limits", [&](const DocumentNode& v) { limits(v); }},
             {"fabric", [&](const DocumentNode& v) { fabric(v); }},
         });
    check_topology(topology_, diagnostics_);
  }

 private:
  void packed_cache(const DocumentNode& node) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    if (!read->starts_with('/')) {
      diagnostics_.error(node.place, "packed_cache: '" + printable(*read) +
                                         "' is not an absolute path; every node has the folder on its own disk");
      return;
    }
    topology_.packed_cache = read;
  }

  void kv_dtype(const DocumentNode& node) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    const auto dtype = model::parse_kv_dtype(*read);
    if (!dtype.ok()) {
      diagnostics_.error(node.place, "kv_dtype: " + dtype.error().message);
    } else {
      topology_.kv_dtype = {*dtype, node.place};
    }
  }

  void nodes(const DocumentNode& node) {
    const auto* items = list(node, "nodes", kMaxNodes);
    if (items == nullptr) return;
    if (items->empty()) diagnostics_.error(node.place, "nodes is empty; a cluster has at least one node");
    for (const DocumentNode& item : *items) {
      NodeSpec spec;
      keys(item, "a node", {"name"},
           {
               {"name", [&](const DocumentNode& v) { name(v, "a node's name", spec.name); }},
               {"host", [&](const DocumentNode& v) { host(v, spec.host); }},
               {"address", [&](const DocumentNode& v) { address(v, spec.address); }},
               {"port", [&](const DocumentNode& v) { number(v, 0, 65535, spec.port); }},
               {"netns", [&](const DocumentNode& v) { name(v, "a network namespace's name", spec.netns); }},
               {"devices", [&](const DocumentNode& v) { devices(v, spec.devices); }},
           });
      if (const NodeSpec* twin = spec.name->empty() ? nullptr : topology_.find_node(*spec.name)) {
        diagnostics_.error(spec.name.place, "there are two nodes named '" + *spec.name + "'; the first is in line " +
                                                std::to_string(twin->name.place.line));
        continue;
      }
      topology_.nodes.push_back(std::move(spec));
    }
  }

  void host(const DocumentNode& node, Placed<std::string>& out) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    if (*read != "localhost") {
      diagnostics_.error(node.place, "host '" + printable(*read) +
                                         "': only localhost works so far; starting nodes on other hosts (ssh, slurm, "
                                         "kubernetes) comes with a later version");
      return;
    }
    out = read;
  }

  void address(const DocumentNode& node, Placed<std::string>& out) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    in_addr v4{};
    in6_addr v6{};
    if (inet_pton(AF_INET, read->c_str(), &v4) != 1 && inet_pton(AF_INET6, read->c_str(), &v6) != 1) {
      diagnostics_.error(node.place, "'" + printable(*read) + "' is not an IP address such as 127.0.0.1 or 10.0.0.2");
      return;
    }
    if (*read == "0.0.0.0" || *read == "::") {
      diagnostics_.error(node.place, "the other nodes cannot reach '" + *read + "'; write one address of the host");
      return;
    }
    out = read;
  }

  void devices(const DocumentNode& node, std::vector<Placed<Device>>& out) {
    const auto* items = list(node, "devices", kMaxDevices);
    if (items == nullptr) return;
    for (const DocumentNode& item : *items) {
      Placed<std::string> read;
      if (!text(item, read)) continue;
      auto device = parse_device(*read);
      if (!device.ok()) {
        diagnostics_.error(item.place, device.error().message);
        continue;
      }
      out.push_back({*device, item.place});
    }
  }

  void parallel(const DocumentNode& node) {
    ParallelSpec& spec = topology_.parallel;
    keys(node, "parallel", {},
         {
             {"pipeline", [&](const DocumentNode& v) { number(v, 1, kMaxStages, spec.pipeline); }},
             {"tensor", [&](const DocumentNode& v) { number(v, 1, kMaxRanks, spec.tensor); }},
             {"expert", [&](const DocumentNode& v) { number(v, 1, kMaxExpertActors, spec.expert); }},
             {"replicas", [&](const DocumentNode& v) { number(v, 1, kMaxReplicas, spec.replicas); }},
         });
  }

  void routing(const DocumentNode& node) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    if (*read != "prefix" && *read != "round_robin") {
      diagnostics_.error(node.place, "routing '" + printable(*read) + "' is neither prefix nor round_robin");
      return;
    }
    topology_.routing = {*read == "prefix" ? Routing::kPrefix : Routing::kRoundRobin, node.place};
  }

  void lookahead(const DocumentNode& node) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    if (*read == "auto") {
      topology_.lookahead = {Lookahead::kAuto, node.place};
    } else if (*read == "on") {
      topology_.lookahead = {Lookahead::kOn, node.place};
    } else if (*read == "off") {
      topology_.lookahead = {Lookahead::kOff, node.place};
    } else {
      diagnostics_.error(node.place, "lookahead '" + printable(*read) + "' is neither auto, on nor off");
    }
  }

  void speculation(const DocumentNode& node) {
    SpeculationSpec& spec = topology_.speculation;
    if (node.kind == DocumentNode::Kind::kScalar) {
      const auto parsed = parse_speculation(node.scalar);
      if (!parsed.ok()) return diagnostics_.error(node.place, "speculation: " + parsed.error().message);
      spec = *parsed;
      spec.kind.place = node.place;
      return;
    }
    keys(node, "speculation", {},
         {
             {"ngram",
              [&](const DocumentNode& v) {
                if (spec.kind.place.known()) {
                  return diagnostics_.error(v.place, "speculation: ngram and draft cannot both guess; leave one out");
                }
                spec.kind = {SpeculationSpec::Kind::kNgram, v.place};
                keys(v, "speculation.ngram", {}, {{"max", [&](const DocumentNode& n) { max_guesses(n); }}});
              }},
             {"draft",
              [&](const DocumentNode& v) {
                if (spec.kind.place.known()) {
                  return diagnostics_.error(v.place, "speculation: ngram and draft cannot both guess; leave one out");
                }
                spec.kind = {SpeculationSpec::Kind::kDraft, v.place};
                keys(v, "speculation.draft", {"model"},
                     {
                         {"model", [&](const DocumentNode& n) { text(n, spec.model); }},
                         {"node", [&](const DocumentNode& n) { text(n, spec.node); }},
                         {"device", [&](const DocumentNode& n) { draft_device(n); }},
                         {"max", [&](const DocumentNode& n) { max_guesses(n); }},
                     });
              }},
         });
  }

  void draft_device(const DocumentNode& node) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    const auto device = parse_device(*read);
    if (!device.ok()) return diagnostics_.error(node.place, device.error().message);
    topology_.speculation.device = {*device, node.place};
  }

  void max_guesses(const DocumentNode& node) {
    number(node, 1, SpeculationSpec::kLargestMax, topology_.speculation.max);
  }

  void limits(const DocumentNode& node) {
    std::vector<Key> known;
    for (const LimitField& field : limit_fields()) {
      known.push_back({std::string(field.name), [this, &field](const DocumentNode& v) { limit(v, field); }});
    }
    keys(node, "limits", {}, known);
  }

  void limit(const DocumentNode& node, const LimitField& field) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    std::uint64_t value = 0;
    if (field.is_bytes) {
      auto bytes = parse_bytes(*read);
      if (!bytes.ok()) {
        diagnostics_.error(node.place, "limit " + std::string(field.name) + ": " + bytes.error().message);
        return;
      }
      value = *bytes;
    } else {
      const auto count = whole_number(*read);
      if (!count) {
        diagnostics_.error(node.place, "limit " + std::string(field.name) + " is a whole number without a unit, not '" +
                                           printable(*read) + "'");
        return;
      }
      value = *count;
    }
    override_limit(field.name, {value, node.place});
  }

  void override_limit(std::string_view name, Placed<std::uint64_t> value) {
    for (const LimitOverride& earlier : topology_.limit_overrides) {
      if (earlier.name != name) continue;
      diagnostics_.error(value.place, "limit " + earlier.name + " is set twice; line " +
                                          std::to_string(earlier.value.place.line) + " sets it already");
      return;
    }
    if (auto set = set_limit(topology_.limits, name, *value); !set.ok()) {
      diagnostics_.error(value.place, set.error().message);
      return;
    }
    topology_.limit_overrides.push_back({std::string(name), value});
  }

  void fabric(const DocumentNode& node) {
    keys(node, "fabric", {},
         {
             {"transports", [&](const DocumentNode& v) { transports(v); }},
             {"spin_us",
              [&](const DocumentNode& v) {
                const auto field = std::find_if(limit_fields().begin(), limit_fields().end(),
                                                [](const LimitField& f) { return f.name == "spin_us"; });
                limit(v, *field);
              }},
             {"secret_file", [&](const DocumentNode& v) { text(v, topology_.fabric.secret_file); }},
         });
  }

  // UCX's own spelling: names with commas between, perhaps a ^ in front. A list means the same.
  void transports(const DocumentNode& node) {
    Placed<std::string> joined{"", node.place};
    if (node.kind == DocumentNode::Kind::kSequence) {
      for (const DocumentNode& item : node.items) {
        Placed<std::string> one;
        if (!text(item, one)) return;
        joined.value += (joined->empty() ? "" : ",") + *one;
      }
    } else if (!text(node, joined)) {
      return;
    }
    const bool valid = !joined->empty() && std::all_of(joined->begin(), joined->end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == ',' || c == '^';
    });
    if (!valid) {
      diagnostics_.error(node.place,
                         "'" + printable(*joined) + "' is not a list of UCX transports such as tcp,sm,self");
      return;
    }
    topology_.fabric.transports = joined;
  }

  Topology& topology_;
};

}  // namespace

std::string default_model_name(std::filesystem::path model) {
  if (!model.has_filename()) model = model.parent_path();  // "models/tutor/"
  return (model.extension() == ".gguf" ? model.stem() : model.filename()).string();
}

Topology read_tree(const DocumentNode& root, std::string_view file, Diagnostics& diagnostics) {
  Topology topology;
  topology.file = file;
  Reader(topology, diagnostics).read(root);
  if (topology.cluster->empty()) {
    const std::string stem = std::filesystem::path(file).stem();
    topology.cluster = {is_name(stem) ? stem : "troupe"};
  }
  if (topology.served_model_name->empty()) {
    topology.served_model_name = {default_model_name(*topology.model)};
  }
  return topology;
}

}  // namespace troupe::cluster
