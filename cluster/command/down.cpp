#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cluster/command/verbs.h"
#include "cluster/command/with_cluster.h"
#include "runtime/base/limits.h"

namespace troupe::cluster {
namespace {

struct DownOptions {
  std::string cluster;
  std::uint64_t deadline_ms = Limits{}.drain_timeout_ms;
};

constexpr std::uint64_t kMaxDeadlineMs = 24 * 3'600'000;
// After the cluster's answer its launching process has little left to do.
constexpr int kLastStepsMs = 10'000;

bool wait_for_process(std::uint32_t pid) {
  const int process = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0));
  if (process < 0) return true;  // gone already
  pollfd fd = {process, POLLIN, 0};
  const bool ended = poll(&fd, 1, kLastStepsMs) == 1;
  close(process);
  return ended;
}

int run_down(ClusterClient& cluster, const DownOptions& options) {
  const std::uint32_t pid = cluster.state().pid;
  const auto drained = cluster.drain(std::chrono::milliseconds(options.deadline_ms));
  if (!wait_for_process(pid)) {
    fmt::print(stderr, "troupe: process {} has not ended{}\n", pid, drained.ok() ? "" : ": " + drained.error().message);
    return 1;
  }
  fmt::print("{} has ended\n", cluster.state().cluster);
  return 0;
}

}  // namespace

VerbRun prepare_down(CLI::App& app) {
  auto options = std::make_shared<DownOptions>();
  app.add_option("cluster", options->cluster, "the topology file, or the cluster's name")->required();
  app.add_option("--deadline-ms", options->deadline_ms, "how long open streams may go on")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{0}, kMaxDeadlineMs));
  app.footer(
      "Ends a running cluster: no new requests, open streams finish until the deadline, then every process ends.\n\n"
      "  troupe down examples/topologies/two-by-two.yaml");
  return [options] {
    return with_cluster(options->cluster, "down", "error",
                        [&](ClusterClient& cluster) { return run_down(cluster, *options); });
  };
}

}  // namespace troupe::cluster
