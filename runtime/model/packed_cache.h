#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/safetensors.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// Weights as kernels have packed them (kernels::PackedWeight::image), kept in a file for later starts, which read it
// instead of packing. The file is a safetensors file of bytes: "identity", and one tensor for each packed matrix, named
// by its index in tensor_slices.
struct PackedCacheKey {
  std::filesystem::path file;  // one for each model path, slice and kind of kernels: a changed model takes its place
  std::string identity;        // what was packed: the files with their sizes and times, the slice, the layout
};

// Errors: the model's files cannot be looked at.
Result<PackedCacheKey> packed_cache_key(const std::filesystem::path& folder, const std::filesystem::path& model,
                                        const Slice& slice, std::string_view kernels);

class PackedCache {
 public:
  // Null when there is no file of this identity. One that is damaged counts as none, and a warning says so.
  static std::unique_ptr<PackedCache> open(const PackedCacheKey& key, const Limits& limits);

  // Empty if it has none for this entry of tensor_slices. Valid as long as the cache lives.
  std::span<const std::byte> image(std::size_t tensor) const;

 private:
  explicit PackedCache(std::unique_ptr<SafetensorsFile> file) : file_(std::move(file)) {}

  const std::unique_ptr<SafetensorsFile> file_;
};

struct PackedImage {
  std::size_t tensor = 0;  // index in tensor_slices
  std::span<const std::byte> bytes;
};

// Writes a cache file in a thread of its own, beside whoever computes with the weights already. What goes wrong is a
// warning: nobody depends on it. The images stay as they are while this lives.
class PackedCacheWriter {
 public:
  PackedCacheWriter(PackedCacheKey key, std::vector<PackedImage> images);
  // Gives up if it is not done.
  ~PackedCacheWriter();
  PackedCacheWriter(const PackedCacheWriter&) = delete;
  PackedCacheWriter& operator=(const PackedCacheWriter&) = delete;

  // Returns when the file is written, or will not be.
  void wait();

 private:
  void run() const;
  Result<void> write(const std::filesystem::path& file) const;

  const PackedCacheKey key_;
  const std::vector<PackedImage> images_;
  std::atomic<bool> stopped_ = false;
  std::thread thread_;
};

}  // namespace troupe::model
