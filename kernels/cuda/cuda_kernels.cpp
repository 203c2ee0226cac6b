#include "kernels/cuda/cuda_kernels.h"

#include <cassert>
#include <utility>
#include <vector>

#include "kernels/cuda/device_list.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/normed_input.h"
#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_ops.h"

namespace troupe::kernels {
namespace {

// Device memory that grows to what the largest operation needs. Growing waits for those that still use the smaller one.
class Workspace {
 public:
  explicit Workspace(GpuMemory& memory) : memory_(memory) {}
  ~Workspace() { release(); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // At least so many bytes; null when there are none, and `memory` keeps the error.
  std::byte* of(std::size_t bytes) {
    if (bytes <= bytes_) return data_;
    release();
    auto memory = memory_.allocate(bytes, "the workspace of kernels");
    if (!memory.ok()) {
      memory_.fail(std::move(memory).error());
      return nullptr;
    }
    data_ = static_cast<std::byte*>(*memory);
    bytes_ = bytes;
    return data_;
  }

 private:
  void release() {
    if (data_ != nullptr) memory_.release(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }

  GpuMemory& memory_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class GpuPackedWeight final : public PackedWeight {
 public:
  GpuPackedWeight(GpuMemory& memory, const GpuWeight& weight, std::size_t bytes)
      : memory_(memory), weight_(weight), bytes_(bytes) {}
  ~GpuPackedWeight() override { memory_.release(const_cast<std::byte*>(weight_.image), bytes_); }

  std::size_t rows() const override { return weight_.rows; }
  std::size_t cols() const override { return weight_.cols; }
  std::size_t bytes() const override { return bytes_; }
  const GpuWeight& weight() const { return weight_; }

 private:
  GpuMemory& memory_;
  const GpuWeight weight_;
  const std::size_t bytes_;
};

class CudaKernels final : public Kernels {
 public:
  explicit CudaKernels(std::unique_ptr<GpuMemory> memory)
      : memory_(std::move(memory)),
        stream_(memory_->gpu().stream()),
        properties_(memory_->gpu().properties()),
        name_(stream_.is_emulated ? "cuda (emulated)" : "cuda"),
        workspace_(*memory_),
        normed_(*memory_),
        keys_(*memory_),
        values_(*memory_),
        pieces_(*memory_),
        tokens_(*memory_),
        positions_(*memory_),
        frequencies_(*memory_),
        slots_(*memory_),
        block_tables_(*memory_),
        wide_(*memory_),
        narrow_(*memory_),
        merges_(*memory_),
        rows_(*memory_),
        weights_(*memory_) {}

  std::string_view name() const override { return name_; }
  DeviceMemory& memory() override { return *memory_; }

  Result<std::unique_ptr<PackedWeight>> pack(const WeightView& weight, std::size_t,
                                             std::span<const std::byte>) override {
    const std::size_t bytes = gpu_image_bytes(weight.dtype, weight.rows, weight.cols);
    image_.resize(bytes);
    pack_for_gpu(weight, image_);
    TROUPE_ASSIGN_OR_RETURN(void* const data, memory_->allocate(bytes, "a weight"));
    memory_->upload(data, image_.data(), bytes);
    const GpuWeight packed = {static_cast<const std::byte*>(data), weight.dtype, weight.rows, weight.cols};
    return std::unique_ptr<PackedWeight>(std::make_unique<GpuPackedWeight>(*memory_, packed, bytes));
  }

  void linear(ConstMatrixF32 in, const LinearWeight& weight, MatrixF32 out) override {
    const LinearProduct products[] = {product(weight, out, Epilogue::kStore)};
    multiply(in, products);
  }

  void swiglu(ConstMatrixF32 in, const LinearWeight& gate, const LinearWeight& up, MatrixF32 out) override {
    const LinearProduct products[] = {product(gate, out, Epilogue::kSilu), product(up, out, Epilogue::kMultiply)};
    multiply(in, products);
  }

  void project_qkv(ConstMatrixF32 in, const QkvWeights& weights, const Rotary& rotary, MatrixF32 queries,
                   std::span<const std::uint32_t> slots, const PagedKv& kv) override {
    assert(slots.size() == in.rows && rotary.positions.size() == in.rows);
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
        .positions = positions_.on_device(rotary.positions),
        .slots = slots_.on_device(slots),
        .inverse_frequencies = frequencies_.on_device(rotary.inverse_frequencies),
        .num_frequencies = rotary.inverse_frequencies.size(),
        .magnitude = rotary.magnitude,
        .layout = rotary.layout,
        .kv = kv,
    };
    if (memory_->failed()) return;
    multiply(in, products);
    TROUPE_GPU_CALL(rotate_and_store, stream_, args);
  }

  void embed(std::span<const std::uint32_t> tokens, const WeightView& table, std::uint32_t first_row,
             MatrixF32 out) override {
    assert(out.rows == tokens.size() && out.cols == table.cols);
    normed_.forget();
    const EmbedArgs args = {tokens_.on_device(tokens), table, first_row, out};
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

  void attention(ConstMatrixF32 queries, const PagedKv& kv, const AttentionBatch& batch, const AttentionShape& shape,
                 MatrixF32 out) override {
    assert(queries.cols == shape.num_heads * shape.head_dim && out.cols == queries.cols && out.rows == queries.rows);
    const AttentionTiles tiles = paged_attention_tiles(shape.head_dim, properties_.shared_bytes_a_block);
    plan_attention(batch, shape, tiles, properties_.multiprocessors, plan_);
    normed_.forget();
    const PagedAttentionArgs args = {
        .queries = queries,
        .kv = kv,
        .shape = shape,
        .block_tables = block_tables_.on_device(batch.block_tables),
        .wide = wide_.on_device(plan_.wide),
        .num_wide = plan_.wide.size(),
        .wide_lines = tiles.wide_lines,
        .narrow = narrow_.on_device(plan_.narrow),
        .num_narrow = plan_.narrow.size(),
        .merges = merges_.on_device(plan_.merges),
        .num_merges = plan_.merges.size(),
        .pieces = room(pieces_, plan_.piece_rows, attention_piece_floats(shape.num_heads, shape.head_dim)).data,
        .out = out,
    };
    if (!memory_->failed()) TROUPE_GPU_CALL(paged_attention, stream_, args);
  }

  void add(ConstMatrixF32 addend, MatrixF32 sum) override {
    normed_.forget();
    const AddArgs args = {addend, sum};
    TROUPE_GPU_CALL(add, stream_, args);
  }

  void gather_rows(ConstMatrixF32 in, std::span<const std::uint32_t> rows, MatrixF32 out) override {
    assert(out.rows == rows.size() && out.cols == in.cols);
    normed_.forget();
    const GatherRowsArgs args = {in.data,  in.row_stride, rows_.on_device(rows), out.data, out.row_stride,
                                 out.rows, out.cols};
    if (!memory_->failed()) TROUPE_GPU_CALL(gather_rows, stream_, args);
  }

  void add_weighted_rows(ConstMatrixF32 in, std::span<const std::uint32_t> rows, std::span<const float> weights,
                         MatrixF32 sum) override {
    assert(in.rows == rows.size() && weights.size() == rows.size() && in.cols == sum.cols);
    normed_.forget();
    const AddWeightedRowsArgs args = {
        in.data, in.row_stride, rows_.on_device(rows), weights_.on_device(weights), sum.data, sum.row_stride,
        in.rows, in.cols};
    if (!memory_->failed()) TROUPE_GPU_CALL(add_weighted_rows, stream_, args);
  }

  void scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) override {
    assert(in.rows == out.rows && in.cols == weight.size());
    normed_.forget();
    const SigmoidCall call = {in.data,       in.rows,  in.cols,  in.row_stride,
                              weight.data(), out.data, out.cols, out.row_stride};
    TROUPE_GPU_CALL(weigh_by_sigmoid, stream_, call);
  }

 private:
  static LinearProduct product(const LinearWeight& weight, MatrixF32 out, Epilogue epilogue) {
    assert(dynamic_cast<const GpuPackedWeight*>(weight.weight) != nullptr);
    const GpuWeight& packed = static_cast<const GpuPackedWeight*>(weight.weight)->weight();
    assert(out.cols == packed.rows);
    return {packed, weight.bias, out.data, out.row_stride, epilogue};
  }

  PreparedNorm before_norm(std::span<const float> weight, ConstMatrixF32 out) {
    return normed_.before_norm(weight.data(), out, workspace_.of(linear_workspace_bytes(out.rows, out.cols)));
  }

  static MatrixF32 room(Workspace& workspace, std::size_t rows, std::size_t cols) {
    return {reinterpret_cast<float*>(workspace.of(rows * cols * sizeof(float))), rows, cols};
  }

  void multiply(ConstMatrixF32 in, std::span<const LinearProduct> products) {
    if (in.rows == 0) return;
    LinearCall call = {.in = in.data, .rows = in.rows, .cols = in.cols, .in_stride = in.row_stride};
    for (const LinearProduct& product : products) call.products[call.num_products++] = product;
    call.workspace = workspace_.of(linear_workspace_bytes(in.rows, in.cols));
    if (call.workspace == nullptr) return;
    normed_.before_products(call);
    TROUPE_GPU_CALL(linear, stream_, call);
  }

  std::unique_ptr<GpuMemory> memory_;
  const Stream stream_;
  const GpuProperties properties_;
  const std::string_view name_;
  std::vector<std::byte> image_;  // of the weight that is packed
  AttentionPlan plan_;            // of the latest attention

  Workspace workspace_;  // of products
  NormedInput normed_;   // what it holds
  Workspace keys_;
  Workspace values_;
  Workspace pieces_;  // of attention
  DeviceList<std::uint32_t> tokens_;
  DeviceList<std::uint32_t> positions_;
  DeviceList<float> frequencies_;
  DeviceList<std::uint32_t> slots_;
  DeviceList<std::uint32_t> block_tables_;
  DeviceList<AttentionItem> wide_;
  DeviceList<AttentionItem> narrow_;
  DeviceList<AttentionMerge> merges_;
  DeviceList<std::uint32_t> rows_;
  DeviceList<float> weights_;
};

}  // namespace

Result<std::unique_ptr<Kernels>> make_cuda_kernels(std::unique_ptr<Gpu> gpu) {
  TROUPE_ASSIGN_OR_RETURN(auto memory, GpuMemory::make(std::move(gpu)));
  return std::unique_ptr<Kernels>(std::make_unique<CudaKernels>(std::move(memory)));
}

}  // namespace troupe::kernels
