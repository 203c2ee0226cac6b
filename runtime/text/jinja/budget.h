#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/result.h"

namespace troupe::text::jinja {

// What one rendering may still spend: a template comes with a model, from anywhere, and must neither run for ever nor
// fill the memory.
class Budget {
 public:
  Budget(std::uint64_t steps, std::uint64_t bytes) : steps_(steps), bytes_(bytes) {}

  // An expression or statement is evaluated.
  Result<void> step() {
    if (steps_ == 0) return resource_exhausted("the template takes too many steps");
    --steps_;
    return {};
  }

  // So much memory is filled: text, or 16 bytes an item.
  Result<void> fill(std::size_t bytes) {
    if (bytes > bytes_) return resource_exhausted("the template makes too much text");
    bytes_ -= bytes;
    return {};
  }

 private:
  std::uint64_t steps_;
  std::uint64_t bytes_;
};

}  // namespace troupe::text::jinja
