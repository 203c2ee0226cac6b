#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "actors/root_supervisor.h"

namespace troupe::cluster {

// Shows on standard output what a cluster does: on a terminal the loading of each shard as a bar that moves, elsewhere
// plain lines. Thread-safe.
class LiveView {
 public:
  explicit LiveView(bool terminal) : terminal_(terminal) {}

  void show_state(const std::string& actor, const std::string& node, const std::string& state,
                  const std::string& detail);
  void show_progress(const std::string& actor, std::uint64_t bytes, std::uint64_t total_bytes,
                     std::uint64_t elapsed_ns);
  void show_line(const std::string& line);

 private:
  struct Loading {
    std::uint64_t bytes = 0;
    std::uint64_t total_bytes = 0;
    std::uint64_t elapsed_ns = 0;
  };

  void clear_bars();
  void draw_bars();

  const bool terminal_;
  std::mutex mutex_;
  std::map<std::string, Loading> loading_;
  std::size_t bars_drawn_ = 0;  // lines below the last plain one
};

}  // namespace troupe::cluster
