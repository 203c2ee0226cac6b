#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace troupe::model {

// A tensor's sizes for people: "[64, 128]".
inline std::string to_string(std::span<const std::uint64_t> shape) {
  std::string text = "[";
  for (const std::uint64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

}  // namespace troupe::model
