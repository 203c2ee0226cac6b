#pragma once

#include <capnp/common.h>
#include <kj/array.h>

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe {

// A file that a thread of its own appends to. What is given to it waits in memory, at most record_queue_bytes, and the
// file grows to at most record_file_bytes: beyond either, or when the disk gives an error, the record ends there with a
// line in the log. It never has a gap.
class RecordFile {
 public:
  // Makes a new file: `path`, or if that is there already "path.1", "path.2", ... Errors: the file cannot be made.
  static Result<std::unique_ptr<RecordFile>> create(const std::filesystem::path& path, const Limits& limits);
  // Writes what waits.
  ~RecordFile();
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;

  // Never waits for the disk. Thread-safe.
  void append(kj::Array<capnp::word> message);

  const std::filesystem::path& path() const { return path_; }

 private:
  struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  RecordFile(std::filesystem::path path, std::FILE* file, const Limits& limits);
  void write();
  void end(const char* reason);  // REQUIRES: mutex_ is held

  const std::filesystem::path path_;
  const std::unique_ptr<std::FILE, CloseFile> file_;  // of the thread
  const std::uint64_t most_queue_bytes_;
  const std::uint64_t most_file_bytes_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<kj::Array<capnp::word>> queue_;
  std::uint64_t queue_bytes_ = 0;
  std::uint64_t accepted_bytes_ = 0;  // written or in the queue
  bool ended_ = false;                // takes nothing more
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace troupe
