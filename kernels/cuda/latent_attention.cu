#include "kernels/cuda/latent_attention.h"

#include <cassert>

#include "kernels/cuda/attention_lines.cuh"
#include "kernels/cuda/attention_tile.cuh"

// A tile lies in shared memory as the pages have it, a row for each position, with room for the largest latent and the
// part that rotates behind it. For scores it is read along its rows, for values across them. Some warps share 16 lines:
// each has some of a tile's positions and of the values. While a tile is multiplied the next one is on its way.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kPositions = 32;  // of a tile
constexpr unsigned kRopeStart = kMaxLatentRank;
constexpr unsigned kRowDim = kMaxLatentRank + kMaxLatentRope;
constexpr unsigned kRow = kRowDim + kPadding;
constexpr unsigned kWeightRow = kPositions + kPadding;
constexpr std::uint32_t kNowhere = 0xffffffff;

// How the warps of a block divide an item. A block of 64 lines is alone on its multiprocessor, and its values fill half
// of the registers there: few warps with many values each leave more room for the rest than many with few.
template <unsigned kLines>
struct LatentWarps {
  static constexpr unsigned kSharing = kLines == kMmaRows ? 4 : 2;  // warps that share 16 lines
  static constexpr unsigned kThreads = kLines / kMmaRows * kSharing * kWarpSize;
  static constexpr unsigned kScores = kPositions / kSharing;      // positions of a warp
  static constexpr unsigned kValues = kMaxLatentRank / kSharing;  // elements of a warp
};

template <unsigned kLines>
struct LatentShared {
  std::uint16_t tokens[2][kPositions * kRow];  // this tile and the next
  std::uint16_t queries[kLines * kRow];
  std::uint16_t weights[kLines * kWeightRow];
  float highest[LatentWarps<kLines>::kSharing][kLines];
  std::uint32_t slots[2][kPositions];
};

// What LatentAttentionArgs has for every item, of one width.
struct LatentCall {
  LatentAttentionArgs args;
  const AttentionItem* items;  // (gridDim.x)
  float scale_log2;
};

// By the block's first threads.
__device__ __forceinline__ void find_slots(std::uint32_t (&slots)[kPositions], const PagedLatents& pages,
                                           const std::uint32_t* block_table, unsigned first, unsigned end) {
  if (threadIdx.x >= kPositions) return;
  const unsigned position = first + threadIdx.x, block_size = static_cast<unsigned>(pages.block_size);
  slots[threadIdx.x] =
      position < end ? block_table[position / block_size] * block_size + position % block_size : kNowhere;
}

// What is not there is zero.
template <DType kPages, unsigned kThreads>
__device__ __forceinline__ void load_tokens(std::uint16_t* tokens, const std::uint32_t (&slots)[kPositions],
                                            const PagedLatents& pages) {
  constexpr unsigned kChunks = kRowDim / kChunk;
  const unsigned rank = static_cast<unsigned>(pages.rank), rope_dim = static_cast<unsigned>(pages.rope_dim);
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < kPositions * kChunks; i += kThreads) {
    const unsigned position = i / kChunks, place = i % kChunks * kChunk;
    const bool is_rope = place >= kRopeStart;
    const unsigned dim = is_rope ? rank + place - kRopeStart : place;
    const std::uint32_t slot = slots[position];
    const bool is_there = slot != kNowhere && dim < (is_rope ? rank + rope_dim : rank);
    copy_chunk<kPages>(tokens + position * kRow + place, pages.tokens, std::size_t{slot} * (rank + rope_dim) + dim,
                       is_there);
  }
}

// Blocks: attention_grid.
template <DType kPages, unsigned kLines>
__global__ void __launch_bounds__(LatentWarps<kLines>::kThreads, kLines == kMmaRows ? 2 : 1)
    attend_latents(LatentCall call) {
  using Warps = LatentWarps<kLines>;
  constexpr unsigned kSharing = Warps::kSharing, kThreads = Warps::kThreads;
  constexpr unsigned kScoreParts = Warps::kScores / 8;
  constexpr unsigned kValuePairs = Warps::kValues / 16;
  TROUPE_DYNAMIC_SHARED(LatentShared<kLines>, shared);

  const AttentionItem item = call.items[blockIdx.x];
  if (item.rows == 0) return;
  const AttentionWork& work = call.args.work;
  const PagedLatents& pages = call.args.pages;
  const unsigned rank = static_cast<unsigned>(pages.rank), rope_dim = static_cast<unsigned>(pages.rope_dim);
  const BlockLines<kLines> lines(item, work.shape);
  const unsigned end = item.end_position;
  const std::uint32_t* const block_table = work.block_tables + item.table_start;

  const unsigned warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const unsigned group = lane / 4, member = lane % 4;
  const unsigned share = warp % kSharing;
  const unsigned first_line = warp / kSharing * kMmaRows;
  const unsigned first_score = share * Warps::kScores;  // position within the tile
  const unsigned first_value = share * Warps::kValues;

  unsigned ends[kOwnLines];  // of what this thread's lines see
#pragma unroll
  for (unsigned i = 0; i < kOwnLines; ++i) ends[i] = lines.end_of(item, first_line + group + 8 * i);

  const unsigned first_tile = item.first_position / kPositions;
  find_slots(shared->slots[first_tile % 2], pages, block_table, item.first_position, end);
  find_slots(shared->slots[(first_tile + 1) % 2], pages, block_table, item.first_position + kPositions, end);
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < kLines * kRowDim / 2; i += kThreads) {
    const unsigned line = i / (kRowDim / 2), place = i % (kRowDim / 2) * 2;
    const bool is_rope = place >= kRopeStart;
    const unsigned dim = is_rope ? rank + place - kRopeStart : place;
    const bool is_there = line < lines.lines && dim < (is_rope ? rank + rope_dim : rank);
    const float* const from = lines.query_of(item, work, line) + dim;
    const std::uint32_t pair = round_pair<kPages>(is_there ? from[0] : 0, is_there ? from[1] : 0);
    memcpy(shared->queries + line * kRow + place, &pair, sizeof pair);
  }
  __syncthreads();
  load_tokens<kPages, kThreads>(shared->tokens[first_tile % 2], shared->slots[first_tile % 2], pages);
  cp_async_commit();

  LineState<kValuePairs> state;
  const std::uint32_t one_pair = round_pair<kPages>(1, 1);
  const std::uint32_t ones[2] = {one_pair, one_pair};

#pragma unroll 1
  for (unsigned stretch = item.first_position, stretch_end = 0; stretch < end; stretch = stretch_end) {
    stretch_end = end_of_stretch(stretch, end);
    state.begin_stretch();
#pragma unroll 1
    for (unsigned first = stretch; first < stretch_end; first += kPositions) {
      const unsigned buffer = first / kPositions % 2;
      const std::uint16_t* const tokens = shared->tokens[buffer];
      const unsigned next = first + kPositions;
      cp_async_wait<0>();
      __syncthreads();  // the tile is there, and nobody needs the last one any more
      if (next < end) {
        load_tokens<kPages, kThreads>(shared->tokens[1 - buffer], shared->slots[1 - buffer], pages);
        cp_async_commit();
        find_slots(shared->slots[buffer], pages, block_table, next + kPositions, end);
      }

      // Two chains of products for each 8 positions, of the even and the odd steps of the depth.
      float chains[kScoreParts][2][4] = {};
#pragma unroll 2
      for (unsigned depth = 0; depth < kRowDim; depth += 2 * kMmaDepth) {
        std::uint32_t a[2][4];
#pragma unroll
        for (unsigned i = 0; i < 2; ++i) {
          load_lines(a[i], shared->queries + first_line * kRow + depth + i * kMmaDepth, kRow);
        }
#pragma unroll
        for (unsigned part = 0; part < kScoreParts; ++part) {
          std::uint32_t r[4];
          // The tile's rows are the columns of the right operand.
          ldmatrix_x4(r, tokens + (first_score + part * 8 + lane % 8) * kRow + depth + lane / 8 * 8);
          const std::uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
#pragma unroll
          for (unsigned i = 0; i < 2; ++i) multiply_tiles<kPages>(chains[part][i], a[i], b[i]);
        }
      }

      float scores[kScoreParts][4];
      float tile_highest[kOwnLines] = {minus_infinity(), minus_infinity()};
#pragma unroll
      for (unsigned part = 0; part < kScoreParts; ++part) {
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
          const bool is_seen = first + first_score + part * 8 + member * 2 + i % 2 < ends[i / 2];
          const float score = __fadd_rn(chains[part][0][i], chains[part][1][i]);
          scores[part][i] = is_seen ? __fmul_rn(score, call.scale_log2) : minus_infinity();
          tile_highest[i / 2] = fmaxf(tile_highest[i / 2], scores[part][i]);
        }
      }
      highest_of_lines(tile_highest, shared->highest, share, first_line);
      float references[kOwnLines];
      state.raise(tile_highest, references);
#pragma unroll
      for (unsigned part = 0; part < kScoreParts; ++part) {
#pragma unroll
        for (unsigned i = 0; i < kOwnLines; ++i) {
          const float x = exp2f(scores[part][2 * i] - references[i]);
          const float y = exp2f(scores[part][2 * i + 1] - references[i]);
          const std::uint32_t pair = round_pair<kPages>(x, y);
          const unsigned at = (first_line + group + 8 * i) * kWeightRow + first_score + part * 8 + member * 2;
          memcpy(shared->weights + at, &pair, sizeof pair);
        }
      }
      __syncthreads();

#pragma unroll 1
      for (unsigned step = 0; step < kPositions / kMmaDepth; ++step) {
        std::uint32_t a[4];
        load_lines(a, shared->weights + first_line * kWeightRow + step * kMmaDepth, kWeightRow);
        multiply_tiles<kPages>(state.sums, a, ones);
#pragma unroll
        for (unsigned pair = 0; pair < kValuePairs; ++pair) {
          std::uint32_t b[2][2];
          load_operands(b, tokens + step * kMmaDepth * kRow + first_value + pair * 16, kRow);
          multiply_tiles<kPages>(state.values[pair][0], a, b[0]);
          multiply_tiles<kPages>(state.values[pair][1], a, b[1]);
        }
      }
    }
    const bool is_first = stretch == item.first_position, is_last = stretch_end == end;
    state.end_stretch(is_first, is_last, rank, first_value,
                      [&](unsigned i) { return lines.place_of(item, work, first_line + group + 8 * i, rank); });
  }
}

template <DType kPages, unsigned kLines>
void launch_items(Stream stream, const LatentAttentionArgs& args, std::span<const AttentionItem> items) {
  using Shared = LatentShared<kLines>;
  static_assert(sizeof(Shared) <= (kLines == 64 ? kServerSharedBytes : kLeastSharedBytes));
  if (items.empty()) return;
  const AttentionShape& shape = args.work.shape;
  const LatentCall call = {args, items.data(), scale_log2(shape)};
  launch(stream, attention_grid(items, shape, kLines), LatentWarps<kLines>::kThreads, sizeof(Shared),
         attend_latents<kPages, kLines>, call);
}

template <DType kPages>
void attend_pages(Stream stream, const LatentAttentionArgs& args) {
  const AttentionLists& lists = args.work.lists;
  assert(lists.wide_lines == 64 || lists.wide_lines == 16);
  if (lists.wide_lines == 64) {
    launch_items<kPages, 64>(stream, args, lists.wide);
  } else {
    launch_items<kPages, 16>(stream, args, lists.wide);
  }
  launch_items<kPages, 16>(stream, args, lists.narrow);
}

}  // namespace

void latent_attention(Stream stream, const LatentAttentionArgs& args) {
  [[maybe_unused]] const AttentionShape& shape = args.work.shape;
  const PagedLatents& pages = args.pages;
  assert(shape.num_kv_heads == 1 && shape.head_dim == pages.row_size() && shape.sliding_window == 0);
  assert(args.work.queries.cols == shape.num_heads * shape.head_dim);
  assert(pages.rank % kChunk == 0 && pages.rank <= kMaxLatentRank);
  assert(pages.rope_dim % kChunk == 0 && pages.rope_dim <= kMaxLatentRope);
  switch (pages.dtype) {
    case DType::kF32: attend_pages<DType::kF32>(stream, args); break;
    case DType::kF16: attend_pages<DType::kF16>(stream, args); break;
    default:
      assert(pages.dtype == DType::kBF16);
      attend_pages<DType::kBF16>(stream, args);
      break;
  }
  merge_pieces(stream, args.work, pages.rank);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
