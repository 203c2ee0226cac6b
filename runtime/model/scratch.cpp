#include "runtime/model/scratch.h"

#include <algorithm>
#include <array>

namespace troupe::model {
namespace {

struct Piece {
  kernels::MatrixF32 Scratch::*matrix;
  std::uint64_t rows;
  std::uint64_t cols;
};

std::array<Piece, 13> pieces(const ModelConfig& config, const Slice& slice, const StepSize& size) {
  const RankShape shape = rank_shape(config, slice);
  const std::uint64_t tokens = size.max_batch_tokens;
  const std::uint64_t heads_size = shape.heads.size() * config.head_dim;
  const std::uint64_t gated_size = std::max({shape.intermediate.size(), shape.shared.size(), shape.dense.size()});
  const std::uint64_t routed_size = config.num_experts != 0 ? config.hidden_size : 0;
  const std::uint64_t logits_rows = slice.is_last_stage() ? size.max_logits_rows : 0;
  const std::uint64_t part_rows = slice.world_size > 1 ? logits_rows : 0;
  const std::uint64_t root_rows = slice.rank == 0 ? logits_rows : 0;
  const std::uint64_t gathered_rows = slice.rank == 0 ? part_rows * slice.world_size : 0;
  const std::uint64_t vocab_part = largest_vocab_part(config, slice);
  return {{{&Scratch::hidden, tokens, config.hidden_size},
           {&Scratch::normed, tokens, config.hidden_size},
           {&Scratch::partial, tokens, config.hidden_size},
           {&Scratch::queries, tokens, heads_size},
           {&Scratch::attended, tokens, heads_size},
           {&Scratch::gated, tokens, gated_size},
           {&Scratch::router_logits, tokens, config.num_experts},
           {&Scratch::routed, tokens, routed_size},
           {&Scratch::expert_out, tokens, routed_size},
           {&Scratch::logits_hidden, logits_rows, config.hidden_size},
           {&Scratch::part_logits, part_rows, vocab_part},
           {&Scratch::gathered, gathered_rows, vocab_part},
           {&Scratch::logits, root_rows, config.vocab_size}}};
}

}  // namespace

std::uint64_t largest_vocab_part(const ModelConfig& config, const Slice& slice) {
  std::uint64_t largest = 0;
  Slice other = slice;
  for (other.rank = 0; other.rank < slice.world_size; ++other.rank) {
    largest = std::max(largest, rank_shape(config, other).vocab.size());
  }
  return largest;
}

Scratch Scratch::take(Arena& arena, const ModelConfig& config, const Slice& slice, const StepSize& size) {
  Scratch scratch;
  for (const Piece& piece : pieces(config, slice, size)) {
    scratch.*piece.matrix = arena.take_matrix(piece.rows, piece.cols);
  }
  return scratch;
}

std::uint64_t scratch_bytes(const ModelConfig& config, const Slice& slice, const StepSize& size) {
  std::uint64_t bytes = 0;
  for (const Piece& piece : pieces(config, slice, size)) {
    bytes += Arena::rounded(piece.rows * piece.cols * sizeof(float));
  }
  return bytes;
}

}  // namespace troupe::model
