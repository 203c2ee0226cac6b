#include "runtime/model/packed_cache.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <functional>
#include <system_error>
#include <utility>

#include "kernels/kernels.h"
#include "runtime/base/log.h"

namespace troupe::model {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::string_view kIdentity = "identity";
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;  // between looks at whether to stop
constexpr int kLowestPriority = 19;                        // the cores belong to whoever answers

std::string shown(const Slice& slice) {
  std::string part = "layers " + std::to_string(slice.first_layer) + "-" + std::to_string(slice.last_layer) + " of " +
                     std::to_string(slice.num_layers) + ", rank " + std::to_string(slice.rank) + " of " +
                     std::to_string(slice.world_size);
  if (slice.expert_shards == 0) return part;
  part += "; experts " + (slice.expert_shard ? std::to_string(*slice.expert_shard) : std::string("elsewhere"));
  return part + " of " + std::to_string(slice.expert_shards);
}

// The files that a model is read from.
Result<std::vector<fs::path>> files_of(const fs::path& model) {
  std::error_code failure;
  std::vector<fs::path> files;
  if (fs::is_directory(model, failure)) {
    for (fs::directory_iterator entry(model, failure), end; !failure && entry != end; entry.increment(failure)) {
      const std::string extension = entry->path().extension();
      if (extension == ".safetensors" || extension == ".json") files.push_back(entry->path());
    }
    std::sort(files.begin(), files.end());
  } else {
    files.push_back(model);
  }
  if (failure) return unavailable(model.string() + ": " + failure.message());
  return files;
}

// Removes what writers of this file have left behind that were killed.
void remove_leftovers(const fs::path& file) {
  std::error_code ignored;
  const std::string prefix = file.filename().string() + ".new.";
  for (fs::directory_iterator entry(file.parent_path(), ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    const std::string name = entry->path().filename();
    if (!name.starts_with(prefix)) continue;
    pid_t pid = 0;
    const auto parsed = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), pid);
    std::error_code unremoved;
    if (parsed.ec == std::errc() && ::kill(pid, 0) != 0 && errno == ESRCH) fs::remove(entry->path(), unremoved);
  }
}

class File {
 public:
  explicit File(const fs::path& path) : fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool write(std::span<const std::byte> bytes) {
    while (fd_ >= 0 && !bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return fd_ >= 0;
  }
  bool sync() { return fd_ >= 0 && ::fsync(fd_) == 0; }

 private:
  int fd_;
};

}  // namespace

Result<PackedCacheKey> packed_cache_key(const fs::path& folder, const fs::path& model, const Slice& slice,
                                        std::string_view kernels) {
  std::error_code failure;
  const fs::path path = fs::canonical(model, failure);
  if (failure) return not_found(model.string() + ": " + failure.message());
  TROUPE_ASSIGN_OR_RETURN(const std::vector<fs::path> files, files_of(path));
  const std::string part = shown(slice) + "; kernels " + std::string(kernels);
  PackedCacheKey key;
  // Two that have the same number take turns: the identity is compared in full.
  const std::size_t number = std::hash<std::string>()(path.string() + "; " + part);
  key.file = folder / (path.stem().string() + "-" + std::to_string(number) + ".packed");
  key.identity = part + "; images of version " + std::to_string(kernels::kImageVersion);
  for (const fs::path& file : files) {
    struct stat status {};
    if (::stat(file.c_str(), &status) != 0) return unavailable(file.string() + ": " + std::strerror(errno));
    key.identity += "; " + file.string() + " of " + std::to_string(status.st_size) + " bytes at " +
                    std::to_string(status.st_mtim.tv_sec) + "." + std::to_string(status.st_mtim.tv_nsec);
  }
  return key;
}

std::unique_ptr<PackedCache> PackedCache::open(const PackedCacheKey& key, const Limits& limits) {
  auto file = SafetensorsFile::open(key.file, limits);
  if (!file.ok()) {
    if (file.error().code != ErrorCode::kNotFound) {
      spdlog::warn("{}; the weights are packed anew", file.error().message);
    }
    return nullptr;
  }
  const StoredTensor* identity = (*file)->find(kIdentity);
  if (identity == nullptr) return nullptr;
  const auto bytes = (*file)->bytes(*identity);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text != key.identity) return nullptr;
  return std::unique_ptr<PackedCache>(new PackedCache(std::move(file).value()));
}

std::span<const std::byte> PackedCache::image(std::size_t tensor) const {
  const StoredTensor* found = file_->find(std::to_string(tensor));
  return found != nullptr ? file_->bytes(*found) : std::span<const std::byte>();
}

PackedCacheWriter::PackedCacheWriter(PackedCacheKey key, std::vector<PackedImage> images)
    : key_(std::move(key)), images_(std::move(images)), thread_([this] { run(); }) {}

PackedCacheWriter::~PackedCacheWriter() {
  stopped_ = true;
  wait();
}

void PackedCacheWriter::wait() {
  if (thread_.joinable()) thread_.join();
}

void PackedCacheWriter::run() const {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kLowestPriority);
  std::error_code failure;
  fs::create_directories(key_.file.parent_path(), failure);
  remove_leftovers(key_.file);
  fs::path unfinished = key_.file;
  unfinished += ".new." + std::to_string(::getpid());
  auto written = write(unfinished);
  if (written.ok() && !stopped_) {
    fs::rename(unfinished, key_.file, failure);
    if (failure) written = unavailable(key_.file.string() + ": " + failure.message());
  }
  fs::remove(unfinished, failure);
  if (!written.ok()) {
    spdlog::warn("packed weights are not kept for the next start: {}", written.error().message);
  } else if (!stopped_) {
    spdlog::info("packed weights are in {}", key_.file.string());
  }
}

Result<void> PackedCacheWriter::write(const fs::path& file) const {
  json::object header;
  std::uint64_t offset = 0;
  const auto add = [&](std::string_view name, std::uint64_t bytes) {
    header[name] = {
        {"dtype", "U8"}, {"shape", json::array{bytes}}, {"data_offsets", json::array{offset, offset + bytes}}};
    offset += bytes;
  };
  add(kIdentity, key_.identity.size());
  for (const PackedImage& image : images_) add(std::to_string(image.tensor), image.bytes.size());
  const std::string text = json::serialize(header);
  const std::uint64_t size = text.size();

  File out(file);
  bool good = out.write(std::as_bytes(std::span(&size, 1))) && out.write(std::as_bytes(std::span(text))) &&
              out.write(std::as_bytes(std::span(key_.identity)));
  for (const PackedImage& image : images_) {
    for (std::size_t first = 0; good && first < image.bytes.size() && !stopped_; first += kPieceBytes) {
      good = out.write(image.bytes.subspan(first, std::min(kPieceBytes, image.bytes.size() - first)));
    }
  }
  if (good && !stopped_) good = out.sync();
  if (!good) return unavailable(file.string() + ": " + std::strerror(errno));
  return {};
}

}  // namespace troupe::model
