#include "kernels/cuda/cuda_kernels.h"

#include <cassert>
#include <utility>

#include "kernels/cuda/device_list.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/packed_weight.h"
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
        name_(stream_.is_emulated ? "cuda (emulated)" : "cuda"),
        workspace_(*memory_),
        keys_(*memory_),
        values_(*memory_),
        tokens_(*memory_),
        positions_(*memory_),
        frequencies_(*memory_),
        slots_(*memory_),
        row_starts_(*memory_),
        context_lengths_(*memory_),
        block_tables_(*memory_),
        block_table_starts_(*memory_),
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

 private:
  static LinearProduct product(const LinearWeight& weight, MatrixF32 out, Epilogue epilogue) {
    assert(dynamic_cast<const GpuPackedWeight*>(weight.weight) != nullptr);
    const GpuWeight& packed = static_cast<const GpuPackedWeight*>(weight.weight)->weight();
    assert(out.cols == packed.rows);
    return {packed, weight.bias, out.data, out.row_stride, epilogue};
  }

  void multiply(ConstMatrixF32 in, std::span<const LinearProduct> products) {
    if (in.rows == 0) return;
    LinearCall call = {.in = in.data, .rows = in.rows, .cols = in.cols, .in_stride = in.row_stride};
    for (const LinearProduct& product : products) call.products[call.num_products++] = product;
    call.workspace = workspace_.of(linear_workspace_bytes(in.rows, in.cols));
    if (call.workspace != nullptr) TROUPE_GPU_CALL(linear, stream_, call);
  }

  std::unique_ptr<GpuMemory> memory_;
  const Stream stream_;
  const std::string_view name_;
  std::vector<std::byte> image_;  // of the weight that is packed

  Workspace workspace_;
  Workspace keys_;
  Workspace values_;
  DeviceList<std::uint32_t> tokens_;
  DeviceList<std::uint32_t> positions_;
  DeviceList<float> frequencies_;
  DeviceList<std::uint32_t> slots_;
  DeviceList<std::uint32_t> row_starts_;
  DeviceList<std::uint32_t> context_lengths_;
  DeviceList<std::uint32_t> block_tables_;
  DeviceList<std::uint32_t> block_table_starts_;
  DeviceList<std::uint32_t> rows_;
  DeviceList<float> weights_;
};

}  // namespace
}  // namespace troupe::kernels
