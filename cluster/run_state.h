#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/base/result.h"

namespace troupe::cluster {

// What a running cluster leaves for `troupe status`, `troupe down` and experiments to find it by.
struct RunState {
  std::string cluster;
  std::uint32_t pid = 0;  // of the launching process
  std::string endpoint;   // of the root's fabric
  std::string secret;
  std::string netns;       // in which the root lives, or empty
  std::string transports;  // of every fabric of the cluster, as in its topology
};

// Where run states live: $TROUPE_RUN_DIR, else $XDG_RUNTIME_DIR/troupe, else /tmp/troupe-UID; readable by the user
// only.
std::filesystem::path run_directory();

// The state of this process's cluster; the file is locked while the process lives and removed at its end.
class RunStateFile {
 public:
  // Errors: a cluster of that name runs already (names its pid and how to end it); the directory is not ours.
  static Result<RunStateFile> claim(const std::string& cluster);

  RunStateFile(RunStateFile&& other) noexcept;
  RunStateFile& operator=(RunStateFile&&) = delete;
  ~RunStateFile();

  Result<void> write(const RunState& state);

 private:
  RunStateFile(std::filesystem::path path, int file) : path_(std::move(path)), file_(file) {}

  std::filesystem::path path_;
  int file_;
};

// The state of a running cluster. Errors: no such cluster runs (lists those that do).
Result<RunState> read_run_state(const std::string& cluster);

}  // namespace troupe::cluster
