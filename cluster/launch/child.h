#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::cluster {

// A program to run as a child process.
struct ChildSpec {
  std::vector<std::string> argv;         // argv[0] is the path of the program
  std::vector<std::string> environment;  // the whole of it, "NAME=value"
  std::string netns;                     // of /run/netns, or empty
  int stdout_fd = 1;                     // what becomes its standard output and error; stays the caller's
  int stderr_fd = 2;
};

// Forks and executes; returns when the program runs. The child leads a process group of its own, reads nothing from
// standard input, inherits no other file descriptor, and is killed by the kernel when the *thread* that called this
// ends: call it from a thread that lives as long as the child shall.
// In a network namespace it also gets a mount namespace in which /sys shows that namespace's interfaces.
// REQUIRES: every signal is blocked in the calling thread, so that no handler of ours runs in the child.
// Errors: no such namespace, no right to enter it, the program cannot be executed, no more processes.
Result<pid_t> start_child(const ChildSpec& spec);

}  // namespace troupe::cluster
