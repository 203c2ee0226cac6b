#include "actors/record_file.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/log.h"

namespace troupe {

namespace {

constexpr int kMostNames = 1'000;

}  // namespace

Result<std::unique_ptr<RecordFile>> RecordFile::create(const std::filesystem::path& path, const Limits& limits) {
  std::filesystem::path name = path;
  int descriptor = -1;
  for (int number = 1; number <= kMostNames; ++number) {
    descriptor = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);  // prompts are nobody else's
    if (descriptor >= 0 || errno != EEXIST) break;
    name = path.string() + "." + std::to_string(number);
  }
  std::FILE* const file = descriptor < 0 ? nullptr : fdopen(descriptor, "wb");
  if (file == nullptr) return unavailable("cannot record to " + name.string() + ": " + std::strerror(errno));
  return std::unique_ptr<RecordFile>(new RecordFile(std::move(name), file, limits));
}

RecordFile::RecordFile(std::filesystem::path path, std::FILE* file, const Limits& limits)
    : path_(std::move(path)),
      file_(file),
      most_queue_bytes_(limits.record_queue_bytes),
      most_file_bytes_(limits.record_file_bytes),
      thread_([this] { write(); }) {
  spdlog::info("recording to {}", path_.string());
}

RecordFile::~RecordFile() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void RecordFile::append(kj::Array<capnp::word> message) {
  const std::uint64_t bytes = message.asBytes().size();
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    if (queue_bytes_ + bytes > most_queue_bytes_) return end("the disk is too slow (limit record_queue_bytes)");
    if (accepted_bytes_ + bytes > most_file_bytes_) return end("the file is full (limit record_file_bytes)");
    queue_bytes_ += bytes;
    accepted_bytes_ += bytes;
    queue_.push_back(std::move(message));
  }
  changed_.notify_one();
}

void RecordFile::end(const char* reason) {
  ended_ = true;
  spdlog::warn("the record {} ends here: {}", path_.string(), reason);
}

void RecordFile::write() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return closing_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::deque<kj::Array<capnp::word>> messages = std::exchange(queue_, {});
    lock.unlock();
    std::uint64_t bytes = 0;
    bool written = true;
    for (const kj::Array<capnp::word>& message : messages) {
      const kj::ArrayPtr<const kj::byte> content = message.asBytes();
      written = written && std::fwrite(content.begin(), 1, content.size(), file_.get()) == content.size();
      bytes += content.size();
    }
    written = written && std::fflush(file_.get()) == 0;
    lock.lock();
    queue_bytes_ -= bytes;
    if (!written && !ended_) end(std::strerror(errno));
    if (!written) return;
  }
}

}  // namespace troupe
