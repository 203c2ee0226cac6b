#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_pieces.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/gpu.h"
#include "kernels/kernels.h"
#include "kernels/latent_pages.h"

namespace troupe::kernels {

// Multi-head latent attention in absorbed form (kernels/cpu/latent_attention.h has the formula), for decoding and
// prompts alike: a row of a token is read once from the pages, as key and as value, for up to 64 lines. In tiles of 32
// positions, divided as kernels/cuda/attention_plan.h says.
//
// Numbers as in kernels/cuda/paged_attention.h: operands in BF16 (F16 with F16 pages), sums in float32, and a row has
// the same bits alone, in a batch, in one piece and in several.
constexpr std::size_t kMaxLatentRank = 512;
constexpr std::size_t kMaxLatentRope = 64;

// The tiles that fit into so much shared memory of a block. REQUIRES: shared_bytes >= kLeastSharedBytes
constexpr AttentionTiles latent_attention_tiles(std::size_t shared_bytes) {
  const bool fits = shared_bytes >= kServerSharedBytes;
  return {.positions = 32,
          .narrow_lines = 16,
          .wide_lines = fits ? 64u : 16u,
          .most_narrow_lines = 16,
          .cuts_wide = true,
          .blocks_a_multiprocessor = 2};
}

struct LatentAttentionArgs {
  AttentionWork work;  // num_kv_heads is 1, head_dim rank + rope_dim, value_dim rank; no sliding window
  PagedLatents pages;  // on the device
};

// What lies behind the last position of a sequence is not looked at. REQUIRES: rank <= kMaxLatentRank, rope_dim <=
// kMaxLatentRope, both multiples of 8; pages at a multiple of 16 bytes, with fewer than 2^32 slots.
TROUPE_GPU_FUNCTIONS(void latent_attention(Stream stream, const LatentAttentionArgs& args);)

}  // namespace troupe::kernels
