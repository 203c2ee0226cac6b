#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <string>

namespace troupe::cluster {

// How a process that only waits learns that it should end: by SIGINT or SIGTERM, or because one of its own threads
// says so.
class EndSignal {
 public:
  struct End {
    int signal = 0;  // or 0
    int code = 0;    // exit code asked for
    std::string reason;
  };

  // Blocks SIGINT and SIGTERM for this thread and all that it starts later: make it before any other thread.
  EndSignal();
  ~EndSignal();
  EndSignal(const EndSignal&) = delete;
  EndSignal& operator=(const EndSignal&) = delete;

  // Wakes wait(). The first call counts. Any thread.
  void end(int code, const std::string& reason);

  // Waits for a signal or for end(), for at most timeout_ms (negative: without limit). One thread.
  std::optional<End> wait(int timeout_ms = -1);

 private:
  int signal_fd_ = -1;
  int event_fd_ = -1;
  std::mutex mutex_;
  std::optional<End> ended_;
};

}  // namespace troupe::cluster
