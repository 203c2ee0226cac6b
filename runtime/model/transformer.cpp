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
  assert(!slice.expert_shard);
  kernels::DeviceMemory& memory = kernels.memory();
  if (!memory.is_host() && config.head_dim > kernels::kMaxGpuHeadDim) {
    return unsupported("head_dim is " + std::to_string(config.head_dim) + ", and kernels for GPUs take up to " +
                           std::to_string(kernels::kMaxGpuHeadDim) + "; use cpu devices",
                       "head_dim");
  }
  const StepSize size{options.max_batch_tokens, options.max_logits_rows, memory.is_host()};
  const ScratchBytes bytes = scratch_bytes(config, slice, size);
  if (!memory.is_host()) {
    ArenaBytes wanted = {.scratch = bytes.device};
    TROUPE_ASSIGN_OR_RETURN(wanted.weights, ShardWeights::arena_bytes(model, config, slice, kernels, limits));
    wanted.kv = options.num_blocks * bytes_per_block(config, slice, options.block_size, options.kv_dtype);
    TROUPE_RETURN_IF_ERROR(check_room(wanted, memory));
  }
  TROUPE_ASSIGN_OR_RETURN(KvPages kv, KvPages::create(config, slice, options.num_blocks, options.block_size,
                                                      options.kv_dtype, options.num_swap_blocks, memory));
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
      expert_dispatch_(config, slice) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  for (std::uint32_t layer = slice.first_layer; layer < slice.last_layer; ++layer) {
    const std::size_t window = config.sliding_windows[layer];
    const auto found = std::ranges::find(shapes_, window, &kernels::AttentionShape::sliding_window);
    layer_shapes_.push_back(static_cast<std::size_t>(found - shapes_.begin()));
    if (found != shapes_.end()) continue;
    shapes_.push_back({shape_.heads.size(), shape_.kv_heads.size(), config.head_dim, scale, window});
  }
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

Result<std::vector<ArenaLevel>> Transformer::memory_levels() const {
  kernels::DeviceMemory& memory = kernels_->memory();
  std::vector<ArenaLevel> levels = {weights_.level(memory.is_host()), kv_.level(), kv_.swap_level(),
                                    arena_.level("scratch"), host_arena_.level("host_scratch")};
  const std::uint64_t in_arenas = weights_.arena.capacity() + kv_.level().capacity + arena_.capacity();
  TROUPE_RETURN_IF_ERROR(add_device_levels(memory, in_arenas, levels));
  return levels;
}

Result<kernels::ConstMatrixF32> Transformer::forward(const StepBatch& batch, kernels::ConstMatrixF32 hidden_in) {
  TROUPE_RETURN_IF_ERROR(check_batch(batch, {config_.vocab_size, options_.num_blocks, options_.block_size,
                                             options_.max_batch_tokens, options_.max_batch_sequences}));
  if (!batch.token_sources.empty() && (kernels_->sampler() == nullptr || slice_.world_size > 1)) {
    return invalid_argument("step: it goes on with tokens that this shard does not draw", "token_sources");
  }
  const std::size_t tokens = batch.tokens.size();
  const kernels::MatrixF32 hidden = scratch_.hidden.rows_from(0, tokens);
  tokens_ = tokens;
  // What other actors are asked in the middle of it cannot be repeated.
  const bool repeats = slice_.expert_shards == 0;
  logits_rows_ = batch.logits_rows.size();
  padded_ = kernels_->begin_step({.tokens = batch.tokens,
                                  .token_sources = batch.token_sources,
                                  .positions = batch.positions,
                                  .slots = batch.slots,
                                  .attention = batch.attention,
                                  .shapes = shapes_,
                                  .logits_rows = batch.logits_rows,
                                  .max_rows = repeats ? options_.max_batch_tokens : 0,
                                  .max_logits_rows = repeats ? options_.max_logits_rows : 0});
  if (!slice_.is_first_stage()) {
    if (hidden_in.rows != tokens || hidden_in.cols != config_.hidden_size) {
      return invalid_argument("step: the hidden states are (" + std::to_string(hidden_in.rows) + ", " +
                              std::to_string(hidden_in.cols) + "); (" + std::to_string(tokens) + ", " +
                              std::to_string(config_.hidden_size) + ") are needed");
    }
    assert(hidden_in.row_stride == hidden_in.cols);
    kernels_->memory().upload(hidden.data, hidden_in.data, tokens * hidden.cols * sizeof(float));
  }
  TROUPE_RETURN_IF_ERROR(run_layers());
  return kernels::ConstMatrixF32(hidden);
}

// Between sums over the ranks lie pieces of work, which may be repeated from earlier steps; one rank has it all in one.
// Of padding a sum knows nothing: how much there is each rank finds for itself.
Result<void> Transformer::run_layers() {
  const std::uint32_t first = slice_.is_first_stage() ? 0 : 1, last = num_pieces() - 1;
  const auto repeat = [this](std::uint32_t piece, std::uint32_t end) {
    const auto work = [this, piece, end]() -> Result<void> {
      for (std::uint32_t i = piece; i < end; ++i) TROUPE_RETURN_IF_ERROR(compute_piece(i));
      return {};
    };
    return kernels_->repeat({kernels::StepPart::Kind::kLayers, piece}, work);
  };
  if (slice_.world_size == 1) return repeat(first, num_pieces());
  for (std::uint32_t piece = first; piece < last; ++piece) {
    TROUPE_RETURN_IF_ERROR(repeat(piece, piece + 1));
    TROUPE_RETURN_IF_ERROR(all_reduce(piece == 0 ? scratch_.hidden : scratch_.partial));
  }
  return repeat(last, num_pieces());
}

// Embedding, attention and MLP of each layer, and the last sum.
Result<void> Transformer::compute_piece(std::uint32_t piece) {
  const kernels::MatrixF32 hidden = scratch_.hidden.rows_from(0, padded_.rows);
  if (piece == 0) {
    kernels_->embed(weights_.embedding, static_cast<std::uint32_t>(shape_.vocab.first), hidden);
    return {};
  }
  const kernels::MatrixF32 partial = scratch_.partial.rows_from(0, padded_.rows);
  if (piece + 1 == num_pieces()) {
    kernels_->add(partial, hidden);
    return {};
  }
  const std::uint32_t index = (piece - 1) / 2;
  const bool is_attention = piece % 2 == 1;
  const LayerWeights& layer = weights_.layers[index];
  const std::span<const float> norm = is_attention ? layer.attention_norm : layer.mlp_norm;
  const kernels::MatrixF32 normed = scratch_.normed.rows_from(0, padded_.rows);
  if (piece == 1) {
    kernels_->rms_norm(hidden, norm, config_.rms_norm_eps, normed);
  } else {
    kernels_->add_rms_norm(partial, hidden, norm, config_.rms_norm_eps, normed);
  }
  if (is_attention) {
    attention(layer, slice_.first_layer + index, padded_.rows);
  } else if (config_.has_experts(slice_.first_layer + index)) {
    return experts(layer, slice_.first_layer + index, padded_.rows);
  } else {
    mlp(layer, padded_.rows);
  }
  return {};
}

// scratch_.partial = this rank's part of attention over the normed hidden states.
void Transformer::attention(const LayerWeights& layer, std::uint32_t index, std::size_t tokens) {
  const kernels::MatrixF32 queries = scratch_.queries.rows_from(0, tokens);
  const kernels::MatrixF32 attended = scratch_.attended.rows_from(0, tokens);
  const kernels::PagedKv& kv = kv_.layer(index);
  const kernels::QkvWeights weights = {.query = layer.query.view(),
                                       .key = layer.key.view(),
                                       .value = layer.value.view(),
                                       .query_norm = layer.query_norm,
                                       .key_norm = layer.key_norm,
                                       .eps = config_.rms_norm_eps};
  const kernels::Rotary rotary = {
      .inverse_frequencies = weights_.inverse_frequencies, .magnitude = 1.0f, .layout = config_.rope.layout};
  kernels_->project_qkv(scratch_.normed.rows_from(0, tokens), weights, rotary, queries, kv);
  kernels_->attention(queries, kv, layer_shapes_[index - slice_.first_layer], attended);
  kernels_->linear(attended, layer.output.view(), scratch_.partial.rows_from(0, tokens));
}

// scratch_.partial = this rank's part of the MLP over the normed hidden states.
void Transformer::mlp(const LayerWeights& layer, std::size_t tokens) {
  run_mlp(layer.mlp, scratch_.normed.rows_from(0, tokens), scratch_.partial.rows_from(0, tokens));
}

void Transformer::run_mlp(const MlpWeights& mlp, kernels::ConstMatrixF32 in, kernels::MatrixF32 out) {
  const kernels::MatrixF32 gated(scratch_.gated.data, in.rows, mlp.gate.weight->rows());
  kernels_->swiglu(in, mlp.gate.view(), mlp.up.view(), gated);
  kernels_->linear(gated, mlp.down.view(), out);
}

// scratch_.partial = this rank's part of the experts that each normed hidden state is routed to, by weight, and of the
// shared one. That one is computed while expert shards compute theirs.
Result<void> Transformer::experts(const LayerWeights& layer, std::uint32_t index, std::size_t tokens) {
  const kernels::ConstMatrixF32 normed = scratch_.normed.rows_from(0, tokens);
  const kernels::MatrixF32 partial = scratch_.partial.rows_from(0, tokens);
  const kernels::MatrixF32 router_logits = scratch_.router_logits.rows_from(0, tokens);
  kernels_->linear(normed, layer.router.view(), router_logits);
  if (asks_experts(slice_)) TROUPE_RETURN_IF_ERROR(dispatch(index, normed, router_logits));
  if (layer.shared_router.empty()) {
    kernels_->memory().clear(partial.data, tokens * partial.cols * sizeof(float));
  } else {
    run_mlp(layer.shared, normed, partial);
    kernels_->scale_by_sigmoid(normed, layer.shared_router, partial);
  }
  if (asks_experts(slice_)) return combine(partial);
  if (slice_.expert_shards == 0) {
    kernels_->mix(normed, router_logits, *layer.mixture, {scratch_.routed, scratch_.expert_gated, scratch_.expert_out},
                  partial);
  }
  return {};
}

// Sends the rows out to the expert shards that this rank asks.
Result<void> Transformer::dispatch(std::uint32_t index, kernels::ConstMatrixF32 normed,
                                   kernels::ConstMatrixF32 router_logits) {
  if (remote_experts_ == nullptr) return unavailable("the stage's expert shards are not assembled");
  kernels::DeviceMemory& memory = kernels_->memory();
  if (!memory.is_host()) {
    const kernels::MatrixF32 rows = scratch_.outgoing_normed.rows_from(0, normed.rows);
    const kernels::MatrixF32 logits = scratch_.outgoing_router_logits.rows_from(0, normed.rows);
    memory.copy_out(rows.data, normed.data, rows.rows * rows.cols * sizeof(float));
    memory.copy_out(logits.data, router_logits.data, logits.rows * logits.cols * sizeof(float));
    TROUPE_RETURN_IF_ERROR(memory.synchronize());
    normed = rows;
    router_logits = logits;
  }
  dispatched_ = expert_dispatch_.route(router_logits);
  return remote_experts_->dispatch(index, normed, dispatched_);
}

// sum += what they have made of them, in the order of the shards.
Result<void> Transformer::combine(kernels::MatrixF32 sum) {
  // On a device the copy of the layer before is done: dispatch() has waited for what came after it.
  const kernels::MatrixF32 combined = scratch_.expert_sum.rows_from(0, sum.rows);
  std::fill_n(combined.data, combined.rows * combined.cols, 0.0f);
  for (std::size_t part = 0; part < dispatched_.size(); ++part) {
    const auto waits = [&] {
      const Stopwatch stopwatch(expert_wait_ns_);
      return remote_experts_->combine(part);
    };
    TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 made, waits());
    const std::vector<std::uint32_t>& rows = dispatched_[part].rows;
    assert(made.rows == rows.size() && made.cols == combined.cols);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::transform(made.row(i), made.row(i) + made.cols, combined.row(rows[i]), combined.row(rows[i]), std::plus<>());
    }
  }
  kernels::DeviceMemory& memory = kernels_->memory();
  if (memory.is_host()) {
    kernels_->add(combined, sum);
    return {};
  }
  const kernels::MatrixF32 copy = scratch_.expert_out.rows_from(0, sum.rows);
  memory.copy_in(copy.data, combined.data, combined.rows * combined.cols * sizeof(float));
  kernels_->add(copy, sum);
  return {};
}

// The rows of the step's tokens = their sum over the ranks.
Result<void> Transformer::all_reduce(const kernels::MatrixF32& matrix) {
  const Stopwatch stopwatch(collective_ns_);
  return communicator_->all_reduce(contiguous(matrix.rows_from(0, tokens_)));
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

Result<kernels::ConstMatrixF32> Transformer::logits(kernels::ConstMatrixF32 hidden, std::size_t first,
                                                    std::size_t count) {
  TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 logits, device_logits(hidden, first, count));
  if (logits.rows == 0) return logits;
  return on_host(logits, scratch_.logits);
}

Result<kernels::ConstMatrixF32> Transformer::device_logits(kernels::ConstMatrixF32 hidden, std::size_t first,
                                                           std::size_t count) {
  if (count == 0) return kernels::ConstMatrixF32();
  const bool is_host = kernels_->memory().is_host();
  if (slice_.world_size == 1) {
    const kernels::MatrixF32& to = is_host ? scratch_.logits : scratch_.part_logits;
    TROUPE_RETURN_IF_ERROR(compute_logits(hidden, first, count, to));
    return kernels::ConstMatrixF32(to.rows_from(0, count));
  }
  TROUPE_RETURN_IF_ERROR(compute_logits(hidden, first, count, scratch_.part_logits));
  const kernels::MatrixF32& whole = is_host ? scratch_.logits : scratch_.whole_logits;
  const bool is_root = slice_.rank == 0;
  const kernels::MatrixF32 to = is_root ? whole.rows_from(0, count) : kernels::MatrixF32();
  TROUPE_RETURN_IF_ERROR(gather_logits(scratch_.part_logits.rows_from(0, count), to));
  return kernels::ConstMatrixF32(to);
}

// out: this rank's columns, and room behind them.
Result<void> Transformer::compute_logits([[maybe_unused]] kernels::ConstMatrixF32 hidden, std::size_t first,
                                         std::size_t count, kernels::MatrixF32 out) {
  assert(slice_.is_last_stage() && first + count <= logits_rows_ && hidden.data == scratch_.hidden.data);
  if (count > options_.max_logits_rows) {
    return invalid_argument("step: logits of " + std::to_string(count) + " rows are asked for; at most " +
                                std::to_string(options_.max_logits_rows) + " fit",
                            "logits_rows");
  }
  const auto compute = [&](std::size_t rows) -> Result<void> {
    const kernels::MatrixF32 wanted = scratch_.logits_hidden.rows_from(0, rows);
    kernels_->gather_logits_rows(scratch_.hidden, first, wanted);
    kernels_->rms_norm(wanted, weights_.final_norm, config_.rms_norm_eps, wanted);
    kernels_->linear(wanted, weights_.lm_head.view(), {out.data, rows, shape_.vocab.size(), out.row_stride});
    return {};
  };
  if (count != logits_rows_) return compute(count);
  return kernels_->repeat({kernels::StepPart::Kind::kLogits, 0}, [&] { return compute(padded_.logits_rows); });
}

// out = the parts of all ranks side by side, on rank 0. They may differ in size: each travels padded to the largest.
Result<void> Transformer::gather_logits(kernels::MatrixF32 part, kernels::MatrixF32 out) {
  const bool is_root = slice_.rank == 0;
  const kernels::MatrixF32 gathered =
      is_root ? scratch_.gathered.rows_from(0, slice_.world_size * part.rows) : kernels::MatrixF32();
  {
    const Stopwatch stopwatch(collective_ns_);
    TROUPE_RETURN_IF_ERROR(communicator_->gather(contiguous(part), contiguous(gathered), 0));
  }
  if (!is_root) return {};
  for (std::uint32_t rank = 0; rank < slice_.world_size; ++rank) {
    const Range columns = vocab_parts_[rank];
    const kernels::MatrixF32 from = gathered.rows_from(rank * part.rows, part.rows);
    kernels_->memory().copy_matrix({from.data, from.rows, columns.size(), from.row_stride},
                                   {out.data + columns.first, out.rows, columns.size(), out.row_stride});
  }
  return {};
}

}  // namespace troupe::model
