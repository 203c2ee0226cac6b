#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <memory>
#include <string>

#include "cluster/command/verbs.h"
#include "cluster/command/with_cluster.h"

namespace troupe::cluster {
namespace {

struct StatusOptions {
  std::string cluster;
  bool json = false;
};

void print_table(schema::ClusterStatus::Reader status) {
  fmt::print("cluster {}  {}  epoch {}\n", status.getCluster().cStr(), status.getReady() ? "ready" : "not ready",
             status.getEpoch());
  fmt::print("{:<14} {:<10} {:>8} {:<9} {:<9} {:>8}  {}\n", "actor", "node", "pid", "device", "state", "restarts",
             "detail");
  for (const auto actor : status.getActors()) {
    fmt::print("{:<14} {:<10} {:>8} {:<9} {:<9} {:>8}  {}\n", actor.getActor().cStr(), actor.getNode().cStr(),
               actor.getPid(), actor.getDevice().cStr(), actor.getState().cStr(), actor.getRestarts(),
               actor.getDetail().cStr());
  }
}

void print_json(schema::ClusterStatus::Reader status) {
  boost::json::array actors;
  for (const auto actor : status.getActors()) {
    actors.push_back(boost::json::object{{"actor", actor.getActor().cStr()},
                                         {"node", actor.getNode().cStr()},
                                         {"pid", actor.getPid()},
                                         {"device", actor.getDevice().cStr()},
                                         {"state", actor.getState().cStr()},
                                         {"restarts", actor.getRestarts()},
                                         {"detail", actor.getDetail().cStr()}});
  }
  fmt::print("{}\n", boost::json::serialize(boost::json::object{{"cluster", status.getCluster().cStr()},
                                                                {"ready", status.getReady()},
                                                                {"epoch", status.getEpoch()},
                                                                {"actors", std::move(actors)}}));
}

int run_status(ClusterClient& cluster, const StatusOptions& options) {
  const auto status = cluster.status();
  if (!status.ok()) {
    fmt::print(stderr, "troupe: {}\n", status.error().message);
    return 1;
  }
  const auto reader = status->read();
  options.json ? print_json(reader.root()) : print_table(reader.root());
  return reader->getReady() ? 0 : 1;
}

}  // namespace

VerbRun prepare_status(CLI::App& app) {
  auto options = std::make_shared<StatusOptions>();
  app.add_option("cluster", options->cluster, "the topology file, or the cluster's name")->required();
  app.add_flag("--json", options->json, "print JSON");
  app.footer(
      "Which actor runs where, and how it is. Exit code 0 = ready, 1 = not.\n\n"
      "  troupe status examples/topologies/two-by-two.yaml");
  return [options] {
    return with_cluster(options->cluster, "status", "warn",
                        [&](ClusterClient& cluster) { return run_status(cluster, *options); });
  };
}

}  // namespace troupe::cluster
