#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "cluster/command/load_plan.h"
#include "cluster/command/verbs.h"
#include "cluster/run_cluster.h"
#include "cluster/run_state.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

struct UpOptions {
  std::string file;
  bool detach = false;
  std::string log_level = "warn";
  std::string log_format = "text";
  std::string record;
};

// In the parent: passes on how the start went. In the child: a session of its own, output to the log file; returns
// the descriptor to report to.
int detach_or_report(const std::string& cluster, int& exit_code) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    fmt::print(stderr, "troupe: pipe: {}\n", std::strerror(errno));
    exit_code = 1;
    return -1;
  }
  const pid_t child = fork();
  if (child < 0) {
    fmt::print(stderr, "troupe: fork: {}\n", std::strerror(errno));
    exit_code = 1;
    return -1;
  }
  const std::filesystem::path log = run_directory() / (cluster + ".log");
  if (child == 0) {
    close(fds[0]);
    setsid();
    std::error_code error;
    std::filesystem::create_directories(run_directory(), error);
    std::filesystem::permissions(run_directory(), std::filesystem::perms::owner_all, error);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    const int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(in, STDIN_FILENO);
    dup2(out >= 0 ? out : in, STDOUT_FILENO);
    dup2(out >= 0 ? out : in, STDERR_FILENO);
    return fds[1];
  }
  close(fds[1]);
  std::string line;
  char byte;
  while (read(fds[0], &byte, 1) == 1 && byte != '\n') line += byte;
  close(fds[0]);
  if (line == "ready") {
    fmt::print("{} is ready (process {}, log {}); end it with 'troupe down'\n", cluster, child, log.string());
    exit_code = 0;
  } else {
    fmt::print(stderr, "troupe: {}\n", line.empty() ? "the cluster ended while starting; see " + log.string() : line);
    exit_code = 1;
  }
  return -1;
}

int run_up(const UpOptions& options) {
  auto loaded = load_plan(options.file, std::cerr);
  if (!loaded) return 2;
  RunOptions run = {.topology = std::move(loaded->topology),
                    .plan = std::move(loaded->plan),
                    .program = std::filesystem::read_symlink("/proc/self/exe").string(),
                    .log_level = options.log_level,
                    .log_format = options.log_format};
  if (!options.record.empty()) run.topology.record_file = std::filesystem::absolute(options.record).string();
  if (options.detach) {
    int exit_code = 0;
    run.ready_fd = detach_or_report(*run.topology.cluster, exit_code);
    if (run.ready_fd < 0) return exit_code;
  }
  if (auto logging = start_logging("root", options.log_level, options.log_format); !logging.ok()) {
    fmt::print(stderr, "troupe: {}\n", logging.error().message);
    return 2;
  }
  return run_cluster(std::move(run));
}

}  // namespace

VerbRun prepare_up(CLI::App& app) {
  auto options = std::make_shared<UpOptions>();
  app.add_option("file", options->file, "the topology file")->required();
  app.add_flag("-d,--detach", options->detach, "return when the cluster is ready, and leave it running");
  app.add_option("--record", options->record,
                 "keep what the scheduler is told and decides, for troupe replay; a file of the scheduler's node");
  app.add_option("--log-level", options->log_level, "trace, debug, info, warn, error")->capture_default_str();
  app.add_option("--log-format", options->log_format, "text or json")->capture_default_str();
  app.footer(
      "Starts every process of the topology, loads the model, and serves until Ctrl-C, which lets open\n"
      "streams finish. A process that dies is started again.\n\n"
      "  troupe up examples/topologies/two-by-two.yaml\n"
      "  troupe up --detach FILE      then: troupe status FILE, troupe down FILE");
  return [options] { return run_up(*options); };
}

}  // namespace troupe::cluster
