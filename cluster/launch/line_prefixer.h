#pragma once

#include <string>
#include <string_view>

namespace troupe::cluster {

// Passes a process's output on line by line, each with a prefix, so that the lines of several processes do not mix.
// One thread.
class LinePrefixer {
 public:
  // A longer line comes out in pieces of this size, so that a process that never ends one costs no more memory.
  static constexpr std::size_t kMaxLine = 8 << 10;

  // `fd` stays the caller's and is written to whole lines at a time.
  LinePrefixer(std::string prefix, int fd) : prefix_(std::move(prefix)), fd_(fd) {}

  void add(std::string_view output);

  // Writes out a last line that was not ended.
  void finish();

 private:
  void write_line();

  std::string prefix_;
  int fd_;
  std::string line_;
};

}  // namespace troupe::cluster
