#include "kernels/cuda/workspace.h"

#include <utility>

namespace troupe::kernels {

std::byte* Workspace::of(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes <= bytes_) return data_;
  release();
  auto memory = memory_.allocate(bytes, purpose_);
  if (!memory.ok()) {
    memory_.fail(std::move(memory).error());
    return nullptr;
  }
  data_ = static_cast<std::byte*>(*memory);
  bytes_ = bytes;
  return data_;
}

void Workspace::release() {
  if (data_ != nullptr) memory_.release(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace troupe::kernels
