#pragma once

#include <cstddef>

#include "kernels/tensor.h"

namespace troupe::kernels {

// The pages of one layer for multi-head latent attention (DeepSeek-V2, Liu et al. 2024, section 2.1): one row of
// numbers for each token, which all heads share. `rank` of them are the latent from which keys and values are made, the
// rest the part of the key that rotates. A slot is block id * block_size + offset within the block.
struct PagedLatents {
  void* tokens = nullptr;     // (num_blocks, block_size, rank + rope_dim)
  DType dtype = DType::kF32;  // kF32, kF16 or kBF16
  std::size_t num_blocks = 0;
  std::size_t block_size = 0;
  std::size_t rank = 0;      // kv_lora_rank: 512 in DeepSeek-V2 and V3
  std::size_t rope_dim = 0;  // qk_rope_head_dim: 64 there

  constexpr std::size_t row_size() const { return rank + rope_dim; }
};

}  // namespace troupe::kernels
