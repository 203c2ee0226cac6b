#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/topology.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// What to run as a node's process.
struct Command {
  std::vector<std::string> argv;                                 // argv[0] is the path of the program
  std::vector<std::pair<std::string, std::string>> environment;  // on top of our own. Secrets go here, never into
                                                                 // argv, which every user of the machine can read
  bool prefix_output = false;  // each line of its stdout and stderr comes out of ours as "[node] line"
};

// How a process ended.
struct ProcessExit {
  pid_t pid = 0;                  // on its host
  int code = 0;                   // exit code, or 0 if `signal` ended it
  int signal = 0;                 // 0 = it ended by itself
  std::string to_string() const;  // "ended with exit code 1", "was killed by signal 9 (Killed)"
};

// A process that a launcher started. Destruction kills what still runs.
// Thread-safety: any thread.
class Process {
 public:
  virtual ~Process() = default;

  virtual pid_t pid() const = 0;

  // To the process and all that it started itself. A process that has ended already is no error.
  virtual Result<void> signal(int signal_number) = 0;
};

// Starts node processes somewhere: on this machine (local.h), later over ssh or through a cluster's own scheduler.
//
// Nothing outlives the launcher: processes still running are killed by its destructor, and by the kernel when the
// launcher's process dies, however that happens.
// Thread-safety: any thread.
class Launcher {
 public:
  using ExitCallback = std::function<void(const ProcessExit&)>;

  virtual ~Launcher() = default;

  // Returns once the program is running. `on_exit` is called once, on the launcher's own thread, after the process
  // has ended, killed or not; it must not block or call the launcher. It is not called when
  // start() returns an error, nor for a Process that was destroyed before its end, nor by the launcher's destructor.
  // It may still be running when a Process destroyed on another thread is gone: capture what it needs by value.
  // Errors: no such program, no such network namespace or no right to enter it, no more processes.
  virtual Result<std::unique_ptr<Process>> start(const NodeSpec& node, const Command& command,
                                                 ExitCallback on_exit) = 0;
};

}  // namespace troupe::cluster
