#include "runtime/model/transformer.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <utility>

#include "kernels/cuda/gpu_list.h"

namespace troupe::model {
namespace {

// Adds the time of its scope to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(std::uint64_t& total_ns) : total_ns_(total_ns), start_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() {
    const auto elapsed = std::chrono::steady_clock::now() - start_;
    total_ns_ += static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count());
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  std::uint64_t& total_ns_;
  std::chrono::steady_clock::time_point start_;
};

std::span<float> contiguous(const kernels::MatrixF32& matrix) {
  assert(matrix.row_stride == matrix.cols);
  return {matrix.data, matrix.rows * matrix.cols};
}

void copy_rows(kernels::ConstMatrixF32 from, kernels::MatrixF32 to) {
  for (std::size_t row = 0; row < to.rows; ++row) std::copy_n(from.row(row), to.cols, to.row(row));
}

Result<void> check_options(const TransformerOptions& options) {
  if (options.max_batch_tokens == 0) return invalid_argument("a step holds at least one token", "max_batch_tokens");
  if (options.max_batch_sequences == 0) {
    return invalid_argument("a step holds at least one sequence", "max_batch_sequences");
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Transformer>> Transformer::load(const std::filesystem::path& model, const ModelConfig& config,
                                                       const Slice& slice, kernels::Kernels& kernels,
                                                       collective::Communicator& communicator,
                                                       const TransformerOptions& requested,
                                                       const ProgressCallback& progress, const Limits& limits) {
  TransformerOptions options = requested;
  if (options.max_logits_rows == 0) options.max_logits_rows = options.max_batch_sequences;
  TROUPE_RETURN_IF_ERROR(check_options(options));
  TROUPE_RETURN_IF_ERROR(check_slice(config, slice));
  kernels::DeviceMemory& memory = kernels.memory();
  if (!memory.is_host() && config.head_dim > kernels::kMaxGpuHeadDim) {
    return unsupported("head_dim is " + std::to_string(config.head_dim) + ", and kernels for GPUs take up to " +
                           std::to_string(kernels::kMaxGpuHeadDim) + "; use cpu devices",
                       "head_dim");
  }
  const StepSize size{options.max_batch_tokens, options.max_logits_rows, memory.is_host()};
  TROUPE_ASSIGN_OR_RETURN(KvPages kv, KvPages::create(config, slice, options.num_blocks, options.block_size,
                                                      options.kv_dtype, options.num_swap_blocks, memory));
  const ScratchBytes bytes = scratch_bytes(config, slice, size);
  const char* purpose = "scratch (limits max_batch_tokens, max_batch_sequences)";
  TROUPE_ASSIGN_OR_RETURN(Arena arena, Arena::create(bytes.device, purpose, memory));
  TROUPE_ASSIGN_OR_RETURN(Arena host_arena, Arena::create(bytes.host, purpose, memory.pinned()));
  const Scratch scratch = Scratch::take(arena, host_arena, config, slice, size);
  TROUPE_ASSIGN_OR_RETURN(ShardWeights weights,
                          ShardWeights::load(model, config, slice, kernels, options.packed_cache, progress, limits));
  return std::unique_ptr<Transformer>(new Transformer(config, slice, kernels, communicator, options, std::move(weights),
                                                      std::move(kv), std::move(arena), std::move(host_arena), scratch));
}

Transformer::Transformer(const ModelConfig& config, const Slice& slice, kernels::Kernels& kernels,
                         collective::Communicator& communicator, const TransformerOptions& options,
                         ShardWeights weights, KvPages kv, Arena arena, Arena host_arena, const Scratch& scratch)
    : config_(config),
      slice_(slice),
      shape_(rank_shape(config, slice)),
      kernels_(&kernels),
      options_(options),
      weights_(std::move(weights)),
      kv_(std::move(kv)),
      arena_(std::move(arena)),
      host_arena_(std::move(host_arena)),
      scratch_(scratch),
      routing_(config, options.max_batch_tokens),
      inverse_frequencies_(inverse_frequencies(config)) {
  Slice other = slice;
  for (other.rank = 0; other.rank < slice.world_size; ++other.rank) {
    vocab_parts_.push_back(rank_shape(config, other).vocab);
  }
  set_communicator(communicator);
}

void Transformer::set_communicator(collective::Communicator& communicator) {
  assert(slice_.world_size == 1 ||
         (communicator.rank() == slice_.rank && communicator.world_size() == slice_.world_size));
  communicator_ = &communicator;
}

Result<kernels::ConstMatrixF32> Transformer::forward(const StepBatch& batch, kernels::ConstMatrixF32 hidden_in) {
  TROUPE_RETURN_IF_ERROR(check_batch(batch, {config_.vocab_size, options_.num_blocks, options_.block_size,
                                             options_.max_batch_tokens, options_.max_batch_sequences}));
  const std::size_t tokens = batch.tokens.size();
  const kernels::MatrixF32 hidden = scratch_.hidden.rows_from(0, tokens);
  if (slice_.is_first_stage()) {
    kernels_->embed(batch.tokens, weights_.embedding, static_cast<std::uint32_t>(shape_.vocab.first), hidden);
    TROUPE_RETURN_IF_ERROR(all_reduce(hidden));
  } else {
    if (hidden_in.rows != tokens || hidden_in.cols != config_.hidden_size) {
      return invalid_argument("step: the hidden states are (" + std::to_string(hidden_in.rows) + ", " +
                              std::to_string(hidden_in.cols) + "); (" + std::to_string(tokens) + ", " +
                              std::to_string(config_.hidden_size) + ") are needed");
    }
    assert(hidden_in.row_stride == hidden_in.cols);
    kernels_->memory().upload(hidden.data, hidden_in.data, tokens * hidden.cols * sizeof(float));
  }
  const kernels::MatrixF32 normed = scratch_.normed.rows_from(0, tokens);
  kernels_->rms_norm(hidden, weights_.layers.front().attention_norm, config_.rms_norm_eps, normed);
  for (std::uint32_t index = slice_.first_layer; index < slice_.last_layer; ++index) {
    const LayerWeights& layer = weights_.layers[index - slice_.first_layer];
    attention(layer, index, batch);
    TROUPE_RETURN_IF_ERROR(add_partial(hidden, layer.mlp_norm));
    if (layer.experts.empty()) {
      mlp(layer, tokens);
    } else {
      TROUPE_RETURN_IF_ERROR(experts(layer, tokens));
    }
    const bool is_last = index + 1 == slice_.last_layer;
    TROUPE_RETURN_IF_ERROR(add_partial(
        hidden, is_last ? std::span<const float>() : weights_.layers[index + 1 - slice_.first_layer].attention_norm));
  }
  return kernels::ConstMatrixF32(hidden);
}

// scratch_.partial = this rank's part of attention over the normed hidden states.
void Transformer::attention(const LayerWeights& layer, std::uint32_t index, const StepBatch& batch) {
  const std::size_t tokens = batch.tokens.size();
  const kernels::MatrixF32 queries = scratch_.queries.rows_from(0, tokens);
  const kernels::MatrixF32 attended = scratch_.attended.rows_from(0, tokens);
  const kernels::PagedKv& kv = kv_.layer(index);
  const kernels::QkvWeights weights = {.query = layer.query.view(),
                                       .key = layer.key.view(),
                                       .value = layer.value.view(),
                                       .query_norm = layer.query_norm,
                                       .key_norm = layer.key_norm,
                                       .eps = config_.rms_norm_eps};
  const kernels::Rotary rotary = {.positions = batch.positions,
                                  .inverse_frequencies = inverse_frequencies_,
                                  .magnitude = 1.0f,
                                  .layout = config_.rope.layout};
  kernels_->project_qkv(scratch_.normed.rows_from(0, tokens), weights, rotary, queries, batch.slots, kv);
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  kernels_->attention(
      queries, kv, batch.attention,
      {shape_.heads.size(), shape_.kv_heads.size(), config_.head_dim, scale, config_.sliding_windows[index]}, attended);
  kernels_->linear(attended, layer.output.view(), scratch_.partial.rows_from(0, tokens));
}

// scratch_.partial = this rank's part of the MLP over the normed hidden states.
void Transformer::mlp(const LayerWeights& layer, std::size_t tokens) {
  run_expert(layer.mlp, scratch_.normed.rows_from(0, tokens), scratch_.partial.rows_from(0, tokens));
}

void Transformer::run_expert(const MlpWeights& expert, kernels::ConstMatrixF32 in, kernels::MatrixF32 out) {
  const kernels::MatrixF32 gated(scratch_.gated.data, in.rows, expert.gate.weight->rows());
  kernels_->swiglu(in, expert.gate.view(), expert.up.view(), gated);
  kernels_->linear(gated, expert.down.view(), out);
}

// scratch_.partial = this rank's part of the experts that each normed hidden state is routed to, by weight. A row adds
// up its experts in their order, whatever rows it shares them with.
Result<void> Transformer::experts(const LayerWeights& layer, std::size_t tokens) {
  const kernels::ConstMatrixF32 normed = scratch_.normed.rows_from(0, tokens);
  const kernels::MatrixF32 partial = scratch_.partial.rows_from(0, tokens);
  const kernels::MatrixF32 router_logits = scratch_.router_logits.rows_from(0, tokens);
  kernels_->linear(normed, layer.router.view(), router_logits);
  TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 routing_logits,
                          on_host(router_logits, scratch_.routing_logits));
  routing_.choose(routing_logits);
  if (layer.shared_router.empty()) {
    kernels_->memory().clear(partial.data, tokens * partial.cols * sizeof(float));
  } else {
    run_expert(layer.shared, normed, partial);
    kernels_->scale_by_sigmoid(normed, layer.shared_router, partial);
  }
  for (std::uint32_t index = 0; index < config_.num_experts; ++index) {
    const auto [rows, weights] = routing_.of(index);
    if (rows.empty()) continue;
    const kernels::MatrixF32 routed = scratch_.routed.rows_from(0, rows.size());
    const kernels::MatrixF32 out = scratch_.expert_out.rows_from(0, rows.size());
    kernels_->gather_rows(normed, rows, routed);
    run_expert(layer.experts[index], routed, out);
    kernels_->add_weighted_rows(out, rows, weights, partial);
  }
  return {};
}

// hidden += the sum of all ranks' parts; and scratch_.normed = its norm, where there is one to come.
Result<void> Transformer::add_partial(kernels::MatrixF32 hidden, std::span<const float> next_norm) {
  const kernels::MatrixF32 partial = scratch_.partial.rows_from(0, hidden.rows);
  TROUPE_RETURN_IF_ERROR(all_reduce(partial));
  if (next_norm.empty()) {
    kernels_->add(partial, hidden);
  } else {
    kernels_->add_rms_norm(partial, hidden, next_norm, config_.rms_norm_eps, scratch_.normed.rows_from(0, hidden.rows));
  }
  return {};
}

Result<void> Transformer::all_reduce(kernels::MatrixF32 matrix) {
  if (slice_.world_size == 1) return {};
  const Stopwatch stopwatch(collective_ns_);
  return communicator_->all_reduce(contiguous(matrix));
}

Result<kernels::ConstMatrixF32> Transformer::to_host(kernels::ConstMatrixF32 hidden) {
  assert(!slice_.is_last_stage());
  return on_host(hidden, scratch_.outgoing_hidden);
}

// The first rows of `copy` with the same numbers, or `matrix` itself if the host can read it.
Result<kernels::ConstMatrixF32> Transformer::on_host(kernels::ConstMatrixF32 matrix, kernels::MatrixF32 copy) {
  if (kernels_->memory().is_host()) return matrix;
  assert(matrix.cols == copy.cols && matrix.row_stride == matrix.cols);
  const kernels::MatrixF32 rows = copy.rows_from(0, matrix.rows);
  TROUPE_RETURN_IF_ERROR(
      kernels_->memory().download(rows.data, matrix.data, matrix.rows * matrix.cols * sizeof(float)));
  return kernels::ConstMatrixF32(rows);
}

Result<kernels::ConstMatrixF32> Transformer::logits(const StepBatch& batch, kernels::ConstMatrixF32 hidden) {
  assert(slice_.is_last_stage());
  const std::size_t rows = batch.logits_rows.size();
  if (rows == 0) return kernels::ConstMatrixF32();
  if (rows > options_.max_logits_rows) {
    return invalid_argument("step: logits of " + std::to_string(rows) + " rows are asked for; at most " +
                                std::to_string(options_.max_logits_rows) + " fit",
                            "logits_rows");
  }
  const kernels::MatrixF32 wanted = scratch_.logits_hidden.rows_from(0, rows);
  for (std::size_t i = 0; i < rows; ++i) {
    if (batch.logits_rows[i] >= hidden.rows) {
      return invalid_argument("step: logits_rows[" + std::to_string(i) + "] is not a row of the batch", "logits_rows");
    }
  }
  kernels_->gather_rows(hidden, batch.logits_rows, wanted);
  kernels_->rms_norm(wanted, weights_.final_norm, config_.rms_norm_eps, wanted);
  if (slice_.world_size > 1) return gather_logits(wanted);
  const kernels::MatrixF32 logits =
      (kernels_->memory().is_host() ? scratch_.logits : scratch_.part_logits).rows_from(0, rows);
  kernels_->linear(wanted, weights_.lm_head.view(), logits);
  return on_host(logits, scratch_.logits);
}

// The parts may differ in size; each travels padded to the largest, and rank 0 puts them together.
Result<kernels::ConstMatrixF32> Transformer::gather_logits(kernels::ConstMatrixF32 hidden) {
  const std::size_t rows = hidden.rows;
  const kernels::MatrixF32 part = scratch_.part_logits.rows_from(0, rows);
  kernels_->linear(hidden, weights_.lm_head.view(), {part.data, rows, shape_.vocab.size(), part.row_stride});
  const bool is_root = slice_.rank == 0;
  const kernels::MatrixF32 gathered =
      is_root ? scratch_.gathered.rows_from(0, slice_.world_size * rows) : kernels::MatrixF32();
  {
    const Stopwatch stopwatch(collective_ns_);
    TROUPE_RETURN_IF_ERROR(communicator_->gather(contiguous(part), contiguous(gathered), 0));
  }
  if (!is_root) return kernels::ConstMatrixF32();
  const kernels::MatrixF32 logits = scratch_.logits.rows_from(0, rows);
  for (std::uint32_t rank = 0; rank < slice_.world_size; ++rank) {
    const Range columns = vocab_parts_[rank];
    copy_rows(gathered.rows_from(rank * rows, rows),
              {logits.data + columns.first, rows, columns.size(), logits.row_stride});
  }
  return kernels::ConstMatrixF32(logits);
}

}  // namespace troupe::model
