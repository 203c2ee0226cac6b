#include "cluster/place_reader.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/value_reader.h"
#include "runtime/base/device.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

constexpr std::uint32_t kMaxLayers = 4096;

class PlaceReader : private ValueReader {
 public:
  explicit PlaceReader(Diagnostics& diagnostics) : ValueReader(diagnostics) {}

  PlaceSpec read(const DocumentNode& node) {
    keys(node, "place", {},
         {
             {"gateway", [&](const DocumentNode& v) { gateway(v); }},
             {"scheduler",
              [&](const DocumentNode& v) {
                Placed<std::string> on;
                keys(v, "place.scheduler", {"node"}, {{"node", [&](const DocumentNode& n) { text(n, on); }}});
                place_.scheduler = on;
              }},
             {"stages",
              [&](const DocumentNode& v) {
                const auto* items = list(v, "place.stages", kMaxStages);
                if (items == nullptr) return;
                if (items->empty()) diagnostics_.error(v.place, "place.stages is empty; leave it out or list stages");
                for (const DocumentNode& item : *items) stage(item);
              }},
         });
    return std::move(place_);
  }

 private:
  void gateway(const DocumentNode& node) {
    GatewayPlace spec;
    keys(node, "place.gateway", {"node"},
         {
             {"node", [&](const DocumentNode& v) { text(v, spec.node); }},
             {"listen",
              [&](const DocumentNode& v) {
                Placed<std::string> read;
                if (!text(v, read)) return;
                auto endpoint = parse_endpoint(*read);
                if (!endpoint.ok()) {
                  diagnostics_.error(v.place, "listen: " + endpoint.error().message);
                  return;
                }
                spec.host = {endpoint->first, v.place};
                spec.port = {endpoint->second, v.place};
              }},
             {"api_key_file", [&](const DocumentNode& v) { text(v, spec.api_key_file); }},
         });
    place_.gateway = std::move(spec);
  }

  void stage(const DocumentNode& node) {
    StagePlace spec;
    spec.place = node.place;
    keys(node, "a stage", {"layers", "shards"},
         {
             {"replica", [&](const DocumentNode& v) { number(v, 0, kMaxReplicas - 1, spec.replica); }},
             {"layers", [&](const DocumentNode& v) { layers(v, spec); }},
             {"shards",
              [&](const DocumentNode& v) { members(v, "shard", "a stage has at least one", kMaxRanks, spec.shards); }},
             {"experts",
              [&](const DocumentNode& v) {
                members(v, "expert", "leave it out, or list expert actors", kMaxExpertActors, spec.experts);
              }},
         });
    place_.stages.push_back(std::move(spec));
  }

  void layers(const DocumentNode& node, StagePlace& spec) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    const std::size_t dash = read->find('-');
    const auto first = whole_number(std::string_view(*read).substr(0, dash));
    const auto last = dash == std::string::npos ? first : whole_number(std::string_view(*read).substr(dash + 1));
    if (!first || !last || *last < *first || *last >= kMaxLayers) {
      diagnostics_.error(node.place, "layers '" + printable(*read) + "' is neither one layer (3) nor a range (0-2), " +
                                         "the last one included, below " + std::to_string(kMaxLayers));
      return;
    }
    spec.first_layer = static_cast<std::uint32_t>(*first);
    spec.last_layer = static_cast<std::uint32_t>(*last) + 1;
    spec.layers_place = node.place;
  }

  // Shards or expert actors, each as NODE/DEVICE.
  void members(const DocumentNode& node, const std::string& kind, const std::string& why_not_empty, std::size_t max,
               std::vector<Placed<ShardPlace>>& out) {
    const auto* items = list(node, kind + "s", max);
    if (items == nullptr) return;
    if (items->empty()) diagnostics_.error(node.place, kind + "s is empty; " + why_not_empty);
    for (const DocumentNode& item : *items) member(item, kind, out);
  }

  void member(const DocumentNode& node, const std::string& kind, std::vector<Placed<ShardPlace>>& out) {
    Placed<std::string> read;
    if (!text(node, read)) return;
    const std::size_t slash = read->find('/');
    if (slash == std::string::npos) {
      diagnostics_.error(node.place, kind + " '" + printable(*read) + "' is not of the form NODE/DEVICE: left/cpu:0");
      return;
    }
    auto device = parse_device(std::string_view(*read).substr(slash + 1));
    if (!device.ok()) {
      diagnostics_.error(node.place, device.error().message);
      return;
    }
    out.push_back({ShardPlace{read->substr(0, slash), *device}, node.place});
  }

  PlaceSpec place_;
};

}  // namespace

PlaceSpec read_place(const DocumentNode& node, Diagnostics& diagnostics) { return PlaceReader(diagnostics).read(node); }

}  // namespace troupe::cluster
