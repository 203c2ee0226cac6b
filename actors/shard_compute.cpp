#include "actors/shard_compute.h"

#include <algorithm>
#include <utility>

namespace troupe {
namespace {

// Stands in for the group between loading and joining.
class NoGroup final : public collective::Communicator {
 public:
  NoGroup(std::uint32_t rank, std::uint32_t world_size) : rank_(rank), world_size_(world_size) {}

  std::uint32_t rank() const override { return rank_; }
  std::uint32_t world_size() const override { return world_size_; }
  Result<void> all_reduce(std::span<float>) override { return none(); }
  Result<void> all_gather(std::span<const float>, std::span<float>) override { return none(); }
  Result<void> reduce_scatter(std::span<const float>, std::span<float>) override { return none(); }
  Result<void> all_to_all(std::span<const float>, std::span<float>) override { return none(); }
  Result<void> gather(std::span<const float>, std::span<float>, std::uint32_t) override { return none(); }
  Result<void> check() override { return none(); }
  void abort(std::string_view) override {}

 private:
  static Error none() { return unavailable("the shard's group is not assembled"); }

  std::uint32_t rank_;
  std::uint32_t world_size_;
};

model::StepBatch batch_of(const engine::FlatStep& flat) {
  static_assert(engine::FlatStep::kKnown == kernels::kTokenIsKnown);
  return {.tokens = flat.tokens,
          .positions = flat.positions,
          .slots = flat.slots,
          .attention = {.row_starts = flat.row_starts,
                        .context_lengths = flat.context_lengths,
                        .block_tables = flat.block_tables,
                        .block_table_starts = flat.block_table_starts},
          .logits_rows = flat.logits_rows,
          .token_sources = flat.token_sources};
}

}  // namespace

Result<std::unique_ptr<ShardCompute>> ShardCompute::load(const ShardComputeOptions& options,
                                                         const model::ProgressCallback& progress,
                                                         const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const model::ModelConfig config, model::load_config(options.model, limits));
  const model::Slice slice = {.first_layer = options.first_layer,
                              .last_layer = options.last_layer,
                              .num_layers = config.num_layers,
                              .rank = options.rank,
                              .world_size = options.ranks,
                              .expert_shards = options.expert_shards};
  TROUPE_RETURN_IF_ERROR(model::check_slice(config, slice));
  TROUPE_ASSIGN_OR_RETURN(auto kernels, kernels::make_kernels(options.device));

  auto group = std::make_unique<NoGroup>(slice.rank, slice.world_size);
  const model::TransformerOptions transformer_options = {
      .num_blocks = options.num_blocks,
      .num_swap_blocks = options.num_swap_blocks,
      .block_size = options.block_size,
      .max_batch_tokens = options.max_batch_tokens,
      .max_batch_sequences = options.max_batch_sequences,
      .max_logits_rows = model::logits_rows(options.max_batch_sequences, options.max_batch_tokens),
      .kv_dtype = options.kv_dtype,
      .packed_cache = options.packed_cache};
  TROUPE_ASSIGN_OR_RETURN(auto transformer, model::Transformer::load(options.model, config, slice, *kernels, *group,
                                                                     transformer_options, progress, limits));
  const engine::ShardSequencesOptions sequence_options = {.num_blocks = options.num_blocks,
                                                          .num_swap_blocks = options.num_swap_blocks,
                                                          .block_size = options.block_size,
                                                          .max_model_len = options.max_model_len,
                                                          .max_batch_tokens = options.max_batch_tokens,
                                                          .max_batch_sequences = options.max_batch_sequences,
                                                          .max_sequences = options.max_batch_sequences * options.stages,
                                                          .vocab_size = config.vocab_size};
  return std::unique_ptr<ShardCompute>(new ShardCompute(std::move(kernels), std::move(group), std::move(transformer),
                                                        engine::ShardSequences(sequence_options, limits)));
}

ShardCompute::ShardCompute(std::unique_ptr<kernels::Kernels> kernels, std::unique_ptr<collective::Communicator> group,
                           std::unique_ptr<model::Transformer> transformer, engine::ShardSequences sequences)
    : kernels_(std::move(kernels)),
      group_(std::move(group)),
      transformer_(std::move(transformer)),
      sequences_(std::move(sequences)) {
  const model::Slice& slice = transformer_->slice();
  if (kernels_->sampler() != nullptr && slice.is_last_stage() && slice.rank == 0) draw_.emplace(*kernels_->sampler());
}

void ShardCompute::join(std::unique_ptr<collective::Communicator> group) {
  transformer_->set_communicator(*group);
  group_ = std::move(group);
  sequences_.clear();
  if (draw_) draw_->forget();
}

Result<void> ShardCompute::begin_step(schema::Step::Reader step) {
  step_ = step.getFence().getStep();
  return sequences_.begin_step(step);
}

Result<kernels::ConstMatrixF32> ShardCompute::launch(kernels::ConstMatrixF32 hidden_in) {
  Result<kernels::ConstMatrixF32> out = forward(hidden_in);
  // First: a group that has failed on a device leaves rubbish there, or what looks like a failure of the device.
  TROUPE_RETURN_IF_ERROR(group_->check());
  return out;
}

Result<void> ShardCompute::collect(std::uint64_t step, const Result<void>& done) {
  TROUPE_RETURN_IF_ERROR(group_->check());
  TROUPE_RETURN_IF_ERROR(done);
  return draw_ ? draw_->finish(step, sequences_) : Result<void>();
}

Result<kernels::ConstMatrixF32> ShardCompute::forward(kernels::ConstMatrixF32 hidden_in) {
  TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 hidden,
                          transformer_->forward(batch_of(sequences_.flat()), hidden_in));
  if (!transformer_->slice().is_last_stage()) return transformer_->to_host(hidden);
  TROUPE_RETURN_IF_ERROR(sample(hidden));
  return kernels::ConstMatrixF32();
}

// A prompt whose tokens are rated wants more rows of logits than there is memory for: they come in pieces, the
// same ones on every rank.
Result<void> ShardCompute::sample(kernels::ConstMatrixF32 hidden) {
  const std::size_t rows = sequences_.flat().logits_rows.size(), piece = transformer_->max_logits_rows();
  if (draw_) draw_->begin(sequences_);
  // What goes wrong is an error of this step, not of the next one that waits for the device.
  if (rows == 0 && !draw_) return kernels_->memory().synchronize();
  for (std::size_t first = 0; first < rows; first += piece) {
    const std::size_t count = std::min(piece, rows - first);
    if (draw_) {
      TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 logits, transformer_->device_logits(hidden, first, count));
      draw_->draw(first, logits);
      continue;
    }
    TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 logits, transformer_->logits(hidden, first, count));
    if (transformer_->slice().rank != 0) continue;
    TROUPE_RETURN_IF_ERROR(sequences_.sample(step_, first, {logits.data, logits.rows * logits.cols}));
  }
  if (draw_) draw_->send();
  return {};
}

}  // namespace troupe
