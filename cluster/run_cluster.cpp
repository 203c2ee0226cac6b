#include "cluster/run_cluster.h"

#include <fmt/format.h>
#include <unistd.h>

#include <caf/all.hpp>
#include <cstdlib>

#include "cluster/end_signal.h"
#include "cluster/live_view.h"
#include "cluster/root.h"
#include "cluster/run_state.h"
#include "cluster/secret.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

// After the deadline of a drain, for the rest of it to be killed and counted.
constexpr int kDrainGraceMs = 5'000;

void report_start(int fd, const std::string& line) {
  if (fd < 0) return;
  const std::string text = line + "\n";
  // The waiting parent may be gone; then nobody wants to know.
  [[maybe_unused]] const ssize_t written = write(fd, text.data(), text.size());
}

std::string where_to_talk(const Topology& topology) {
  const GatewayPlace gateway = topology.place.gateway.value_or(GatewayPlace{});
  return fmt::format("troupe chat --host {} --port {}", *gateway.host, *gateway.port);
}

ClusterEvents show_events(LiveView& view, EndSignal& end, const RunOptions& options) {
  ClusterEvents events;
  events.on_state = [&view](const std::string& actor, const std::string& node, const std::string& state,
                            const std::string& detail) { view.show_state(actor, node, state, detail); };
  events.on_progress = [&view](const std::string& actor, std::uint64_t bytes, std::uint64_t total_bytes,
                               std::uint64_t elapsed_ns) { view.show_progress(actor, bytes, total_bytes, elapsed_ns); };
  events.on_ready = [&view, &options](std::uint64_t epoch) {
    view.show_line(fmt::format("ready (epoch {}): {}", epoch, where_to_talk(options.topology)));
    report_start(options.ready_fd, "ready");
  };
  events.on_failed = [&end, &options](const Error& error) {
    report_start(options.ready_fd, error.message);
    end.end(1, error.message);
  };
  events.on_drained = [&end] { end.end(0, "drained"); };
  return events;
}

// Waits for the end, passing on the first signal as a drain.
int wait_for_end(EndSignal& end, Root& root, LiveView& view, std::uint64_t drain_timeout_ms) {
  auto reason = end.wait();
  while (reason && reason->signal == 0 && reason->code != 0) {
    view.show_line("troupe: " + reason->reason);
    return reason->code;
  }
  if (!reason || reason->signal == 0) return 0;
  view.show_line("ending: open streams have " + std::to_string(drain_timeout_ms) + " ms (again to end at once)");
  root.drain(drain_timeout_ms);
  reason = end.wait(static_cast<int>(2 * drain_timeout_ms) + kDrainGraceMs);
  return reason ? reason->code : 1;
}

}  // namespace

int run_cluster(RunOptions options) {
  const std::string cluster = *options.topology.cluster;
  auto claimed = RunStateFile::claim(cluster);
  auto secret = cluster_secret(*options.topology.fabric.secret_file);
  for (const Error* error : {claimed.ok() ? nullptr : &claimed.error(), secret.ok() ? nullptr : &secret.error()}) {
    if (error == nullptr) continue;
    fmt::print(stderr, "troupe: {}\n", error->message);
    report_start(options.ready_fd, error->message);
    return 1;
  }
  EndSignal end;
  LiveView view(isatty(STDOUT_FILENO) != 0);
  caf::actor_system_config config;
  fabric::configure(config);
  caf::actor_system system(config);
  int code = 0;
  {
    auto root = Root::start(system, {.topology = options.topology,
                                     .plan = options.plan,
                                     .secret = *secret,
                                     .program = options.program,
                                     .log_level = options.log_level,
                                     .log_format = options.log_format,
                                     .in_process = options.in_process,
                                     .events = show_events(view, end, options)});
    Result<void> written;
    if (root.ok()) {
      written = claimed->write({.cluster = cluster,
                                .pid = static_cast<std::uint32_t>(getpid()),
                                .endpoint = (*root)->endpoint(),
                                .secret = *secret,
                                .netns = *options.topology.nodes.front().netns,
                                .transports = *options.topology.fabric.transports});
    }
    if (!root.ok() || !written.ok()) {
      const std::string message = root.ok() ? written.error().message : root.error().message;
      fmt::print(stderr, "troupe: {}\n", message);
      report_start(options.ready_fd, message);
      code = 1;
    } else {
      code = wait_for_end(end, **root, view, options.topology.limits.drain_timeout_ms);
    }
  }
  if (code == 0) return 0;
  // Actors may be left in the middle of something; their nodes have been killed already.
  spdlog::shutdown();
  { RunStateFile released = std::move(claimed).value(); }
  std::fflush(stdout);
  std::_Exit(code);
}

}  // namespace troupe::cluster
