#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "actors/device_draw.h"
#include "kernels/kernels.h"
#include "kernels/select.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "runtime/engine/shard_sequences.h"
#include "runtime/model/transformer.h"
#include "schema/step.capnp.h"

namespace troupe {

// Which part of which model a shard computes, on what, and how large its steps become.
struct ShardComputeOptions {
  std::filesystem::path model;
  std::uint32_t first_layer = 0;
  std::uint32_t last_layer = 0;  // end exclusive
  std::uint32_t rank = 0;
  std::uint32_t ranks = 1;          // of the stage
  std::uint32_t stages = 1;         // of the pipeline
  std::uint32_t expert_shards = 0;  // that hold the routed experts of these layers (model::Slice)
  kernels::ComputeDevice device;
  std::uint32_t num_blocks = 0;
  std::uint32_t num_swap_blocks = 0;  // beside the pages
  std::uint32_t block_size = 0;
  std::uint32_t max_model_len = 0;
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_batch_sequences = 0;
  kernels::DType kv_dtype = kernels::DType::kF32;
  std::filesystem::path packed_cache;  // a folder that keeps packed weights for later starts, or empty
};

// What a shard is without the messages around it: the kernels, weights, KV pages and sequences of one tensor-parallel
// rank of one pipeline stage, and its place in the group of ranks.
//
// Thread-safety: one thread, that of load(), which is pinned to the device's first core and is the first of the worker
// team.
class ShardCompute {
 public:
  // Reads and packs the weights. Errors: of the model's files, of the device, of memory.
  static Result<std::unique_ptr<ShardCompute>> load(const ShardComputeOptions& options,
                                                    const model::ProgressCallback& progress, const Limits& limits);

  // Takes a place in a group whose tensors lie in memory(), and forgets all sequences. Before the first step; with one
  // rank as well.
  void join(std::unique_ptr<collective::Communicator> group);

  // As of model::Transformer.
  void set_remote_experts(model::RemoteExperts* experts) { transformer_->set_remote_experts(experts); }

  // The group is of no more use to this rank: the others learn of it.
  void leave(std::string_view reason) { group_->abort(reason); }

  // One step is begin_step, copy_blocks, launch and, on rank 0 of the last stage, collect and write_result. Errors
  // leave the step undone. Where is_async(), another one may begin between launch() and collect(), even with tokens
  // that the first is to draw, unless it needs them: then it has to wait for collect().
  bool needs_drawn(schema::Step::Reader step) { return is_async() && sequences_.needs_drawn(step); }
  Result<void> begin_step(schema::Step::Reader step);
  std::size_t rows() const { return sequences_.flat().tokens.size(); }  // tokens of the step

  // The step's copies of KV blocks, how many, and makes them. Before launch().
  std::size_t copies() const { return sequences_.flat().copies.size(); }
  Result<void> copy_blocks() { return transformer_->copy_blocks(sequences_.flat().copies); }

  // Runs the layers and, on the last stage, samples. `hidden_in`: (rows(), hidden_size), empty on the first stage.
  // Returns (rows(), hidden_size), valid until the next step; nothing on the last stage. Where is_async(), the device
  // may not have begun when this returns: notify() or wait() tell when it is done with this step.
  Result<kernels::ConstMatrixF32> launch(kernels::ConstMatrixF32 hidden_in);
  bool is_async() const { return draw_.has_value(); }
  void notify(std::function<void(Result<void>)> done) { kernels_->memory().notify(std::move(done)); }
  Result<void> wait() { return kernels_->memory().synchronize(); }

  // Takes what the oldest step that was launched has drawn. done: what notify() or wait() gave. Errors: of the group,
  // whose failure leaves rubbish on the device, or may look like one of the device; `done`; those of drawing.
  Result<void> collect(std::uint64_t step, const Result<void>& done);

  // Of the step collected last.
  Result<void> write_result(std::uint64_t step, schema::StepResult::Builder result) {
    return sequences_.write_result(step, result);
  }

  kernels::DeviceMemory& memory() { return kernels_->memory(); }
  const model::Transformer& transformer() const { return *transformer_; }
  std::string_view kernels_name() const { return kernels_->name(); }

 private:
  ShardCompute(std::unique_ptr<kernels::Kernels> kernels, std::unique_ptr<collective::Communicator> group,
               std::unique_ptr<model::Transformer> transformer, engine::ShardSequences sequences);

  Result<kernels::ConstMatrixF32> forward(kernels::ConstMatrixF32 hidden_in);
  Result<void> sample(kernels::ConstMatrixF32 hidden);

  std::unique_ptr<kernels::Kernels> kernels_;
  std::unique_ptr<collective::Communicator> group_;
  std::unique_ptr<model::Transformer> transformer_;
  engine::ShardSequences sequences_;
  std::uint64_t step_ = 0;          // begun last
  std::optional<DeviceDraw> draw_;  // where this rank has the whole logits on a device that draws
};

}  // namespace troupe
