#include "kernels/cuda/cuda_kernels.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <functional>
#include <utility>
#include <vector>

#include "kernels/cuda/embed.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/gpu_mixture.h"
#include "kernels/cuda/gpu_row_sampler.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/normed_input.h"
#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/step_buffer.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/workspace.h"

namespace troupe::kernels {
namespace {

class GpuPackedWeight final : public PackedWeight {
 public:
  // owner: who gets the memory back; null where it is somebody else's.
  GpuPackedWeight(GpuMemory* owner, const GpuWeight& weight, std::size_t bytes)
      : owner_(owner), weight_(weight), bytes_(bytes) {}
  ~GpuPackedWeight() override {
    if (owner_ != nullptr) owner_->release(const_cast<std::byte*>(weight_.image), bytes_);
  }
  GpuPackedWeight(const GpuPackedWeight&) = delete;
  GpuPackedWeight& operator=(const GpuPackedWeight&) = delete;

  std::size_t rows() const override { return weight_.rows; }
  std::size_t cols() const override { return weight_.cols; }
  std::size_t bytes() const override { return bytes_; }
  const GpuWeight& weight() const { return weight_; }

 private:
  GpuMemory* const owner_;
  const GpuWeight weight_;
  const std::size_t bytes_;
};

class CudaKernels final : public Kernels {
 public:
  CudaKernels(std::unique_ptr<GpuMemory> memory, GpuLibrary library)
      : memory_(std::move(memory)),
        library_(std::move(library)),
        stream_(memory_->gpu().stream()),
        name_(stream_.is_emulated ? "cuda (emulated)" : "cuda"),
        step_(*memory_),
        graphs_(*memory_),
        inputs_(*memory_, "the inputs of products"),
        normed_(*memory_),
        unpacked_(*memory_, "products by a library"),
        keys_(*memory_, "keys"),
        values_(*memory_, "values"),
        pieces_(*memory_, "attention in pieces"),
        choices_(*memory_, "the choice of experts"),
        sampler_(*memory_) {}

  std::string_view name() const override { return name_; }
  DeviceMemory& memory() override { return *memory_; }

  std::uint64_t packed_bytes(DType dtype, std::size_t rows, std::size_t cols) const override {
    return gpu_image_bytes(dtype, rows, cols);
  }

  // Several threads write the image, part by part, straight into pinned memory, while the device copies what they wrote
  // before. No image is kept on the host, where it would take as much memory again (tests/bench/packing_bench.cpp).
  Result<std::unique_ptr<PackedWeight>> pack(const WeightView& weight, std::size_t, std::span<const std::byte>,
                                             void* place) override {
    const std::size_t bytes = gpu_image_bytes(weight.dtype, weight.rows, weight.cols);
    GpuMemory* owner = nullptr;
    if (place == nullptr) {
      TROUPE_ASSIGN_OR_RETURN(place, memory_->allocate(bytes, "a weight"));
      owner = memory_.get();
    }
    auto* const data = static_cast<std::byte*>(place);
    const GpuWeight packed = {data, weight.dtype, weight.rows, weight.cols};
    const std::size_t chunk_bytes = gpu_chunk_bytes(weight.dtype);
    const std::size_t panel_bytes = gpu_panels(weight.rows) * gpu_panel_bytes(weight.dtype, weight.cols);
    memory_->send(data, panel_bytes, chunk_bytes, [&](std::uint64_t offset, std::span<std::byte> chunks) {
      pack_chunks_for_gpu(weight, offset / chunk_bytes, chunks);
    });
    if (weight.dtype == DType::kInt8) {
      std::vector<float> scales(gpu_panels(weight.rows) * kGpuPanelOuts);
      pack_scales_for_gpu(weight, scales);
      memory_->upload(data + panel_bytes, scales.data(), scales.size() * sizeof(float));
    }
    return std::unique_ptr<PackedWeight>(std::make_unique<GpuPackedWeight>(owner, packed, bytes));
  }

  Result<std::unique_ptr<Mixture>> make_mixture(std::span<const ExpertWeights> experts,
                                                const MixtureShape& shape) override {
    std::vector<GpuMixture::Expert> packed;
    for (const auto& [gate, up, down] : experts) packed.push_back({gpu_weight(gate), gpu_weight(up), gpu_weight(down)});
    TROUPE_ASSIGN_OR_RETURN(auto mixture, GpuMixture::make(*memory_, packed, shape));
    return std::unique_ptr<Mixture>(std::move(mixture));
  }

  RowSampler* sampler() override { return &sampler_; }

  StepRows begin_step(const StepLists& lists) override {
    normed_.forget();
    step_.begin(lists);
    step_.take_tokens(sampler_.tokens(), sampler_.rows());
    return step_.rows();
  }

  Result<void> repeat(StepPart part, const std::function<Result<void>()>& work) override {
    if (step_.sizes().empty()) return work();
    // What is repeated neither finds inputs prepared nor leaves them so.
    normed_.forget();
    auto done = graphs_.run(part, step_.sizes(), work);
    normed_.forget();
    return done;
  }
  void forget_repeated() override { graphs_.forget(); }

  void linear(ConstMatrixF32 in, const LinearWeight& weight, MatrixF32 out) override {
    const LinearProduct products[] = {product(weight, out, Epilogue::kStore)};
    multiply(in, products);
  }

  void swiglu(ConstMatrixF32 in, const LinearWeight& gate, const LinearWeight& up, MatrixF32 out) override {
    const LinearProduct products[] = {product(gate, out, Epilogue::kSilu), product(up, out, Epilogue::kMultiply)};
    multiply(in, products);
  }

  void project_qkv(ConstMatrixF32 in, const QkvWeights& weights, const Rotary& rotary, MatrixF32 queries,
                   const PagedKv& kv) override {
    assert(in.rows == step_.rows().rows);
    const std::size_t width = kv.num_kv_heads * kv.head_dim;
    const MatrixF32 keys = room(keys_, in.rows, width), values = room(values_, in.rows, width);
    const LinearProduct products[] = {product(weights.query, queries, Epilogue::kStore),
                                      product(weights.key, keys, Epilogue::kStore),
                                      product(weights.value, values, Epilogue::kStore)};
    const RotateAndStoreArgs args = {
        .queries = queries,
        .keys = keys,
        .values = values,
        .query_norm = weights.query_norm.empty() ? nullptr : weights.query_norm.data(),
        .key_norm = weights.key_norm.empty() ? nullptr : weights.key_norm.data(),
        .eps = weights.eps,
        .positions = step_.positions(),
        .slots = step_.slots(),
        .inverse_frequencies = rotary.inverse_frequencies.data(),
        .num_frequencies = rotary.inverse_frequencies.size(),
        .magnitude = rotary.magnitude,
        .layout = rotary.layout,
        .kv = kv,
    };
    if (memory_->failed()) return;
    multiply(in, products);
    TROUPE_GPU_CALL(rotate_and_store, stream_, args);
  }

  void embed(const WeightView& table, std::uint32_t first_row, MatrixF32 out) override {
    assert(out.rows == step_.rows().rows && out.cols == table.cols);
    normed_.forget();
    const EmbedArgs args = {step_.tokens(), table, first_row, out};
    if (!memory_->failed()) TROUPE_GPU_CALL(embed, stream_, args);
  }

  void rms_norm(ConstMatrixF32 in, std::span<const float> weight, float eps, MatrixF32 out) override {
    const RmsNormArgs args = {in, weight.data(), eps, out, before_norm(weight, out)};
    TROUPE_GPU_CALL(rms_norm, stream_, args);
  }

  void add_rms_norm(ConstMatrixF32 addend, MatrixF32 sum, std::span<const float> weight, float eps,
                    MatrixF32 out) override {
    const AddRmsNormArgs args = {addend, sum, weight.data(), eps, out, before_norm(weight, out)};
    TROUPE_GPU_CALL(add_rms_norm, stream_, args);
  }

  void attention(ConstMatrixF32 queries, const PagedKv& kv, std::size_t shape, MatrixF32 out) override {
    const StepBuffer::Plan plan = step_.plan(shape);
    assert(queries.cols == plan.shape.num_heads * plan.shape.head_dim);
    assert(out.cols == queries.cols && out.rows == queries.rows);
    normed_.forget();
    const std::size_t piece_floats = attention_piece_floats(plan.shape.num_heads, plan.shape.head_dim);
    const PagedAttentionArgs args = {
        .work = {.queries = queries,
                 .shape = plan.shape,
                 .block_tables = step_.block_tables(),
                 .lists = plan.lists,
                 .pieces = room(pieces_, std::bit_ceil(plan.piece_rows), piece_floats).data,
                 .out = out},
        .kv = kv,
    };
    if (!memory_->failed()) TROUPE_GPU_CALL(paged_attention, stream_, args);
  }

  void add(ConstMatrixF32 addend, MatrixF32 sum) override {
    normed_.forget();
    const AddArgs args = {addend, sum};
    TROUPE_GPU_CALL(add, stream_, args);
  }

  void gather_logits_rows(ConstMatrixF32 in, std::size_t first, MatrixF32 out) override {
    assert(out.cols == in.cols);
    normed_.forget();
    const GatherRowsArgs args = {in.data,  in.row_stride, step_.logits_rows() + first, out.data, out.row_stride,
                                 out.rows, out.cols};
    if (!memory_->failed()) TROUPE_GPU_CALL(gather_rows, stream_, args);
  }

  void mix(ConstMatrixF32 in, ConstMatrixF32 router_logits, const Mixture& mixture, const MixtureScratch& scratch,
           MatrixF32 sum) override {
    assert(dynamic_cast<const GpuMixture*>(&mixture) != nullptr);
    normed_.forget();
    static_cast<const GpuMixture&>(mixture).mix(in, router_logits, scratch, step_.live_rows(), inputs_, choices_, sum);
  }

  void scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) override {
    assert(in.rows == out.rows && in.cols == weight.size());
    normed_.forget();
    const SigmoidCall call = {in.data,       in.rows,  in.cols,  in.row_stride,
                              weight.data(), out.data, out.cols, out.row_stride};
    TROUPE_GPU_CALL(weigh_by_sigmoid, stream_, call);
  }

 private:
  static const GpuWeight& gpu_weight(const PackedWeight* weight) {
    assert(dynamic_cast<const GpuPackedWeight*>(weight) != nullptr);
    return static_cast<const GpuPackedWeight*>(weight)->weight();
  }

  static LinearProduct product(const LinearWeight& weight, MatrixF32 out, Epilogue epilogue) {
    const GpuWeight& packed = gpu_weight(weight.weight);
    assert(out.cols == packed.rows);
    return {packed, weight.bias, out.data, out.row_stride, epilogue};
  }

  static MatrixF32 room(Workspace& workspace, std::size_t rows, std::size_t cols) {
    return {reinterpret_cast<float*>(workspace.of(rows * cols * sizeof(float))), rows, cols};
  }

  void multiply(ConstMatrixF32 in, std::span<const LinearProduct> products) {
    if (in.rows == 0) return;
    LinearCall call = {.in = in.data, .rows = in.rows, .cols = in.cols, .in_stride = in.row_stride};
    for (const LinearProduct& product : products) call.products[call.num_products++] = product;
    if (goes_to_library(in.rows)) return multiply_by_library(call);
    call.workspace = inputs_.of(linear_workspace_bytes(in.rows, in.cols));
    if (call.workspace == nullptr) return;
    normed_.before_products(call);
    TROUPE_GPU_CALL(linear, stream_, call);
  }

  bool goes_to_library(std::size_t rows) const { return library_.library != nullptr && rows >= kLeastLibraryRows; }

  PreparedNorm before_norm(std::span<const float> weight, ConstMatrixF32 out) {
    const bool prepares = !goes_to_library(out.rows);
    return normed_.before_norm(weight.data(), out,
                               prepares ? inputs_.of(linear_workspace_bytes(out.rows, out.cols)) : nullptr);
  }

  void multiply_by_library(const LinearCall& call) {
    std::size_t most_outs = 0;
    for (const LinearProduct& product : std::span(call.products).first(call.num_products)) {
      most_outs = std::max(most_outs, product.weight.rows);
    }
    std::byte* const workspace = unpacked_.of(large_linear_workspace_bytes(call.rows, call.cols, most_outs));
    if (workspace == nullptr) return;
    if (auto done = large_linear(*library_.library, stream_, call, library_.products, workspace); !done.ok()) {
      memory_->fail(std::move(done).error());
    }
  }

  std::unique_ptr<GpuMemory> memory_;
  const GpuLibrary library_;
  const Stream stream_;
  const std::string_view name_;

  StepBuffer step_;
  StepGraphs graphs_;
  Workspace inputs_;    // of products
  NormedInput normed_;  // what they hold of a norm's result
  Workspace unpacked_;  // of products by the library
  Workspace keys_;
  Workspace values_;
  Workspace pieces_;   // of attention
  Workspace choices_;  // of experts
  GpuRowSampler sampler_;
};

}  // namespace

Result<std::unique_ptr<Kernels>> make_cuda_kernels(std::unique_ptr<Gpu> gpu, GpuLibrary library,
                                                   const std::vector<int>& cores) {
  TROUPE_ASSIGN_OR_RETURN(auto memory, GpuMemory::make(std::move(gpu), cores));
  return std::unique_ptr<Kernels>(std::make_unique<CudaKernels>(std::move(memory), std::move(library)));
}

}  // namespace troupe::kernels
