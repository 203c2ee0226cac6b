#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe {

// What a shard or expert computes on, as written in topology files and in schema/cluster.capnp's ShardSpec:
// "cpu:0" is core 0, "cpu:0-3" the cores 0 to 3 with one thread each, "cuda:0" the first GPU.
struct Device {
  enum class Kind { kCpu, kCuda };

  Kind kind = Kind::kCpu;
  std::uint32_t first = 0;
  std::uint32_t last = 0;  // inclusive; equal to `first` for a GPU

  std::uint32_t cores() const { return kind == Kind::kCpu ? last - first + 1 : 0; }
  bool overlaps(const Device& other) const { return kind == other.kind && first <= other.last && other.first <= last; }
  std::string to_string() const;
  bool operator==(const Device&) const = default;
};

// The largest core or GPU number that a device may name.
inline constexpr std::uint32_t kMaxDeviceIndex = 4095;

// Errors: anything but the three forms above, a range that runs backwards, a number beyond kMaxDeviceIndex.
Result<Device> parse_device(std::string_view text);

}  // namespace troupe
