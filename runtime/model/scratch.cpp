#include "runtime/model/scratch.h"

#include <algorithm>
#include <array>

namespace troupe::model {
namespace {

struct Piece {
  kernels::MatrixF32 Scratch::*matrix;
  std::uint64_t rows;
  std::uint64_t cols;
  bool on_host = false;
};

std::array<Piece, 19> pieces(const ModelConfig& config, const Slice& slice, const StepSize& size) {
  const RankShape shape = rank_shape(config, slice);
  const std::uint64_t tokens = size.max_batch_tokens;
  const std::uint64_t heads_size = shape.heads.size() * config.head_dim;
  const bool mixes = config.num_experts != 0 && slice.expert_shards == 0;
  const bool asks = asks_experts(slice);
  const std::uint64_t gated_size =
      std::max({config.num_experts != 0 ? 0 : shape.intermediate.size(), shape.shared.size(), shape.dense.size()});
  const std::uint64_t routed_rows = mixes ? (size.on_host ? tokens : tokens * config.num_experts_per_token) : 0;
  const std::uint64_t logits_rows = slice.is_last_stage() ? size.max_logits_rows : 0;
  const std::uint64_t part_rows = slice.world_size > 1 || !size.on_host ? logits_rows : 0;
  const std::uint64_t root_rows = slice.rank == 0 ? logits_rows : 0;
  const std::uint64_t gathered_rows = slice.world_size > 1 ? root_rows * slice.world_size : 0;
  const std::uint64_t whole_rows = slice.world_size > 1 && !size.on_host ? root_rows : 0;
  const std::uint64_t sent_rows = slice.is_last_stage() || size.on_host ? 0 : tokens;
  const std::uint64_t vocab_part = largest_vocab_part(config, slice);
  return {{{&Scratch::hidden, tokens, config.hidden_size},
           {&Scratch::normed, tokens, config.hidden_size},
           {&Scratch::partial, tokens, config.hidden_size},
           {&Scratch::queries, tokens, heads_size},
           {&Scratch::attended, tokens, heads_size},
           {&Scratch::gated, tokens, gated_size},
           {&Scratch::router_logits, tokens, config.num_experts},
           {&Scratch::routed, size.on_host ? routed_rows : 0, config.hidden_size},
           {&Scratch::expert_gated, routed_rows, shape.intermediate.size()},
           {&Scratch::expert_out, asks && !size.on_host ? tokens : routed_rows, config.hidden_size},
           {&Scratch::logits_hidden, logits_rows, config.hidden_size},
           {&Scratch::part_logits, part_rows, vocab_part},
           {&Scratch::gathered, gathered_rows, vocab_part},
           {&Scratch::whole_logits, whole_rows, config.vocab_size},
           {&Scratch::logits, root_rows, config.vocab_size, true},
           {&Scratch::outgoing_hidden, sent_rows, config.hidden_size, true},
           {&Scratch::expert_sum, asks ? tokens : 0, config.hidden_size, true},
           {&Scratch::outgoing_normed, asks && !size.on_host ? tokens : 0, config.hidden_size, true},
           {&Scratch::outgoing_router_logits, asks && !size.on_host ? tokens : 0, config.num_experts, true}}};
}

}  // namespace

std::uint32_t logits_rows(std::uint32_t max_batch_sequences, std::uint32_t max_batch_tokens) {
  constexpr std::uint32_t kLeast = 16;
  return std::max(max_batch_sequences, std::min(kLeast, max_batch_tokens));
}

std::uint64_t largest_vocab_part(const ModelConfig& config, const Slice& slice) {
  std::uint64_t largest = 0;
  Slice other = slice;
  for (other.rank = 0; other.rank < slice.world_size; ++other.rank) {
    largest = std::max(largest, rank_shape(config, other).vocab.size());
  }
  return largest;
}

Scratch Scratch::take(Arena& device, Arena& host, const ModelConfig& config, const Slice& slice, const StepSize& size) {
  Scratch scratch;
  for (const Piece& piece : pieces(config, slice, size)) {
    scratch.*piece.matrix = (piece.on_host ? host : device).take_matrix(piece.rows, piece.cols);
  }
  return scratch;
}

ScratchBytes scratch_bytes(const ModelConfig& config, const Slice& slice, const StepSize& size) {
  ScratchBytes bytes;
  for (const Piece& piece : pieces(config, slice, size)) {
    (piece.on_host ? bytes.host : bytes.device) += Arena::rounded(piece.rows * piece.cols * sizeof(float));
  }
  return bytes;
}

}  // namespace troupe::model
