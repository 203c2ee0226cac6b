#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// What bounds a program on GPUs as the read bandwidth of cores does there (roofline.h): how fast copies within their
// memories are, here and now.
//
// Thread-safety: one thread, which uses no GPU otherwise: which one is current belongs to the thread.
class CopyBandwidth {
 public:
  // gpus: their indices, each once. Takes up to 512 MiB of each. Errors: a GPU that cannot be used; no memory.
  static Result<std::unique_ptr<CopyBandwidth>> make(const std::vector<std::uint32_t>& gpus);
  ~CopyBandwidth();
  CopyBandwidth(const CopyBandwidth&) = delete;
  CopyBandwidth& operator=(const CopyBandwidth&) = delete;

  // Bytes a second that all GPUs together read and write, one after the other measured. Errors: what became of a GPU.
  Result<double> measure();

 private:
  struct Member {
    std::unique_ptr<kernels::Kernels> kernels;
    std::byte* memory = nullptr;  // (2, bytes)
    std::uint64_t bytes = 0;
  };

  CopyBandwidth() = default;

  std::vector<Member> members_;
};

}  // namespace troupe::cluster
