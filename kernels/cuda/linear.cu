#include "kernels/cuda/linear.h"

#include <cassert>

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/prepared_input.cuh"
#include "kernels/cuda/weight_formats.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kMostSegments = 16;

struct ProductTask {
  const std::byte* image;
  const float* bias;
  float* out;
  std::size_t out_stride;
  unsigned outs;
  Epilogue epilogue;
};

// What a launch works on. With `passes` of two, a block takes a panel of product 0 and then the same of product 1;
// otherwise the panels of all products in turn.
struct Task {
  PreparedInput in;
  ProductTask products[kMostProducts];
  unsigned num_products;
  unsigned passes;
  unsigned units;           // of a row of the weight
  unsigned segment_groups;  // groups in a segment
  std::size_t panel_bytes;
  // Of experts: their rows, and in place of products[i].image their images.
  const std::uint32_t* starts;
  const std::byte* const* images[2];
};

struct RowRange {
  unsigned first;
  unsigned end;
};

__device__ __forceinline__ RowRange rows_of(const Task& task, unsigned expert) {
  if (task.starts == nullptr) return {0, task.in.rows};
  return {__ldg(task.starts + expert), __ldg(task.starts + expert + 1)};
}

__device__ __forceinline__ const std::byte* image_of(const Task& task, unsigned product, unsigned expert) {
  return task.starts == nullptr ? task.products[product].image : task.images[product][expert];
}

// Panels of 16 outputs, in pieces of `panels` each.
__device__ __forceinline__ unsigned pieces_of(const ProductTask& product, unsigned panels) {
  return (product.outs + kGpuPanelOuts * panels - 1) / (kGpuPanelOuts * panels);
}

// Which product a block works on, `piece` becoming the piece within it.
__device__ __forceinline__ unsigned product_of(const Task& task, unsigned panels, unsigned& piece) {
  unsigned product = 0;
  if (task.passes == 2) return product;
  while (product + 1 < task.num_products && piece >= pieces_of(task.products[product], panels)) {
    piece -= pieces_of(task.products[product++], panels);
  }
  return product;
}

// Tiles of 8 rows in device memory; only rows before `end` are read.
struct GlobalRows {
  PreparedInput in;
  unsigned first;
  unsigned end;
  unsigned lane;

  __device__ __forceinline__ uint4 words(unsigned unit, int tile, int part) const {
    const unsigned row = first + tile * 8 + lane / 4;
    if (row >= end) return {0, 0, 0, 0};
    const std::size_t index = std::size_t{part * in.units_a_row + unit} * in.rows + row;
    return load<uint4>(in.units + index * kGpuUnitBytes + lane % 4 * 16);
  }
  __device__ __forceinline__ float scale(unsigned block, int tile, int i) const {
    const unsigned row = first + tile * 8 + lane % 4 * 2 + i;
    return row < end ? __ldg(in.scales + std::size_t{block} * in.rows + row) : 0.0f;
  }
  __device__ __forceinline__ std::uint32_t half_sums(unsigned block, int tile, int i) const {
    const unsigned row = first + tile * 8 + lane % 4 * 2 + i;
    return row < end ? __ldg(in.half_sums + std::size_t{block} * in.rows + row) : 0;
  }
};

// Writes a sum of all segments.
template <class SumType>
__device__ __forceinline__ void finish(const Task& task, const ProductTask& product, const std::byte* image,
                                       unsigned row, unsigned out, SumType sum) {
  const float bias = product.bias != nullptr ? __ldg(product.bias + out) : 0.0f;
  float value;
  if constexpr (std::is_same_v<SumType, std::int32_t>) {
    const std::size_t panels = pieces_of(product, 1);
    const auto* scales = reinterpret_cast<const float*>(image + panels * task.panel_bytes);
    value = fmaf(static_cast<float>(sum), __ldg(scales + out) * __ldg(task.in.scales + row), bias);
  } else {
    value = sum + bias;
  }
  finish_value(product.epilogue, value, product.out + row * product.out_stride + out);
}

// Blocks of multiply_few that share a multiprocessor: two where that leaves registers enough for a lane's group.
constexpr int few_blocks(DType dtype, int tiles) {
  const bool is_small = dtype == DType::kBF16 || dtype == DType::kF32 || dtype == DType::kInt8 || dtype == DType::kQ4_0;
  return is_small && tiles == 1 ? 2 : 1;
}

// Few rows: a block takes one panel, each of its warps a segment of the inputs, which it reads once for up to 8 kTiles
// rows at a time. grid: (panels, experts or 1); threads: 32 a segment.
template <DType kType, int kTiles>
__global__ void __launch_bounds__(32 * kMostSegments, few_blocks(kType, kTiles)) multiply_few(Task task) {
  constexpr unsigned kRows = 8 * kTiles;
  constexpr unsigned kRowStride = 20;  // that lanes of one store hit different banks
  __shared__ Sum<kType> partial[kMostSegments][kRows * kRowStride];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, segments = blockDim.x / 32;
  unsigned panel = blockIdx.x;
  const unsigned first_product = product_of(task, 1, panel);
  const RowRange range = rows_of(task, blockIdx.y);
  const unsigned first_unit = warp * task.segment_groups * Group<kType>::kUnits;
  const unsigned end_unit = min(task.units, first_unit + task.segment_groups * Group<kType>::kUnits);

  for (unsigned first_row = range.first; first_row < range.end; first_row += kRows) {
    const unsigned end_row = min(range.end, first_row + kRows);
    const GlobalRows rows{task.in, first_row, end_row, lane};
    const int tiles = static_cast<int>(end_row - first_row + 7) / 8;
    for (unsigned pass = 0; pass < task.passes; ++pass) {
      const ProductTask& product = task.products[first_product + pass];
      const std::byte* image = image_of(task, first_product + pass, blockIdx.y);
      Sum<kType> sums[kTiles][4] = {};
      for (unsigned unit = first_unit; unit < end_unit; unit += Group<kType>::kUnits) {
        Group<kType> group;
        group.load_group(image + panel * task.panel_bytes, unit, end_unit, lane);
        multiply_group<kType, kTiles>(group, rows, unit, end_unit, tiles, sums);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          partial[warp][(tile * 8 + lane % 4 * 2 + i % 2) * kRowStride + lane / 4 + i / 2 * 8] = sums[tile][i];
        }
      }
      __syncthreads();
      for (unsigned i = threadIdx.x; i < (end_row - first_row) * kGpuPanelOuts; i += blockDim.x) {
        const unsigned row = i / kGpuPanelOuts, out = panel * kGpuPanelOuts + i % kGpuPanelOuts;
        Sum<kType> sum = 0;
        for (unsigned segment = 0; segment < segments; ++segment) {
          sum += partial[segment][row * kRowStride + i % kGpuPanelOuts];
        }
        if (out < product.outs) finish(task, product, image, first_row + row, out, sum);
      }
      __syncthreads();
    }
  }
}

// Many rows: a block of 8 warps takes 8 panels and 64 rows, a warp 2 panels and 32 rows; the inputs of a group go
// through shared memory, the next group's on their way while one is multiplied.
constexpr unsigned kBlockPanels = 8;
constexpr unsigned kBlockRows = 64;
constexpr unsigned kBlockThreads = 256;
constexpr int kWarpTiles = 4;
constexpr int kWarpPanels = 2;

template <DType kType>
struct Stage {
  static constexpr unsigned kUnits = Group<kType>::kUnits;
  static constexpr unsigned kParts = Group<kType>::kParts;
  static constexpr bool kScales = input_form(kType) == InputForm::kBlocks;
  uint4 units[kParts * kUnits * kBlockRows * 4];
  float scales[kScales ? kUnits * 2 * kBlockRows : 1];
  std::uint32_t half_sums[kScales ? kUnits * 2 * kBlockRows : 1];

  // Group `group`, rows [first, end).
  __device__ __forceinline__ void fill(const PreparedInput& in, unsigned group, unsigned first, unsigned end) {
    const unsigned first_unit = group * kUnits;
#pragma unroll
    for (unsigned i = threadIdx.x; i < kParts * kUnits * kBlockRows * 4; i += kBlockThreads) {
      const unsigned row = i / 4 % kBlockRows, unit = first_unit + i / (4 * kBlockRows) % kUnits;
      const unsigned part = i / (4 * kBlockRows * kUnits);
      const bool valid = first + row < end && unit < in.units_a_row;
      const std::size_t index = std::size_t{part * in.units_a_row + unit} * in.rows + first + row;
      cp_async_16(&units[i], valid ? in.units + index * kGpuUnitBytes + i % 4 * 16 : in.units, valid);
    }
    if constexpr (kScales) {
#pragma unroll
      for (unsigned i = threadIdx.x; i < kUnits * 2 * kBlockRows; i += kBlockThreads) {
        const unsigned row = i % kBlockRows, block = first_unit * 2 + i / kBlockRows;
        const bool valid = first + row < end && block < in.units_a_row * 2;
        const std::size_t index = std::size_t{block} * in.rows + first + row;
        scales[i] = valid ? __ldg(in.scales + index) : 0.0f;
        half_sums[i] = valid ? __ldg(in.half_sums + index) : 0;
      }
    }
  }
};

// 32 rows of a stage, from `first` on.
template <DType kType>
struct StagedRows {
  const Stage<kType>& stage;
  unsigned first;
  unsigned group;
  unsigned lane;

  __device__ __forceinline__ uint4 words(unsigned unit, int tile, int part) const {
    constexpr unsigned kUnits = Stage<kType>::kUnits;
    return stage
        .units[((part * kUnits + unit - group * kUnits) * kBlockRows + first + tile * 8 + lane / 4) * 4 + lane % 4];
  }
  __device__ __forceinline__ unsigned index(unsigned block, int tile, int i) const {
    return (block - group * Stage<kType>::kUnits * 2) * kBlockRows + first + tile * 8 + lane % 4 * 2 + i;
  }
  __device__ __forceinline__ float scale(unsigned block, int tile, int i) const {
    return stage.scales[index(block, tile, i)];
  }
  __device__ __forceinline__ std::uint32_t half_sums(unsigned block, int tile, int i) const {
    return stage.half_sums[index(block, tile, i)];
  }
};

// Rows [first_row, end_row) of one pass.
template <DType kType>
__device__ __forceinline__ void multiply_block_of_rows(const Task& task, const ProductTask& product,
                                                       const std::byte* image, unsigned first_panel, unsigned first_row,
                                                       unsigned end_row, Stage<kType> (&stages)[2]) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned warp_row = warp / 4 * 32;
  first_panel += warp % 4 * kWarpPanels;
  const unsigned panels = pieces_of(product, 1);
  const unsigned groups = (task.units + Group<kType>::kUnits - 1) / Group<kType>::kUnits;
  Sum<kType> totals[kWarpPanels][kWarpTiles][4] = {};
  Sum<kType> sums[kWarpPanels][kWarpTiles][4] = {};

  stages[0].fill(task.in, 0, first_row, end_row);
  cp_async_commit();
  unsigned left = task.segment_groups;
  for (unsigned g = 0; g < groups; ++g) {
    if (g + 1 < groups) stages[(g + 1) % 2].fill(task.in, g + 1, first_row, end_row);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const StagedRows<kType> rows{stages[g % 2], warp_row, g, lane};
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
      if (first_panel + i >= panels) break;
      Group<kType> group;
      group.load_group(image + (first_panel + i) * task.panel_bytes, g * Group<kType>::kUnits, task.units, lane);
      multiply_group<kType, kWarpTiles>(group, rows, g * Group<kType>::kUnits, task.units, kWarpTiles, sums[i]);
    }
    if (--left == 0 || g + 1 == groups) {
      left = task.segment_groups;
#pragma unroll
      for (int i = 0; i < kWarpPanels * kWarpTiles * 4; ++i) {
        totals[i / (kWarpTiles * 4)][i / 4 % kWarpTiles][i % 4] +=
            sums[i / (kWarpTiles * 4)][i / 4 % kWarpTiles][i % 4];
        sums[i / (kWarpTiles * 4)][i / 4 % kWarpTiles][i % 4] = 0;
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int panel = 0; panel < kWarpPanels; ++panel) {
#pragma unroll
    for (int tile = 0; tile < kWarpTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const unsigned row = first_row + warp_row + tile * 8 + lane % 4 * 2 + i % 2;
        const unsigned out = (first_panel + panel) * kGpuPanelOuts + lane / 4 + i / 2 * 8;
        if (row < end_row && out < product.outs) finish(task, product, image, row, out, totals[panel][tile][i]);
      }
    }
  }
}

// grid: (pieces of 8 panels, blocks of 64 rows that are worked on at a time, experts or 1)
template <DType kType>
__global__ void __launch_bounds__(kBlockThreads) multiply_many(Task task) {
  __shared__ Stage<kType> stages[2];
  unsigned piece = blockIdx.x;
  const unsigned first_product = product_of(task, kBlockPanels, piece);
  const RowRange range = rows_of(task, blockIdx.z);
  for (unsigned first = range.first + blockIdx.y * kBlockRows; first < range.end; first += gridDim.y * kBlockRows) {
    for (unsigned pass = 0; pass < task.passes; ++pass) {
      multiply_block_of_rows<kType>(task, task.products[first_product + pass],
                                    image_of(task, first_product + pass, blockIdx.z), piece * kBlockPanels, first,
                                    min(range.end, first + kBlockRows), stages);
    }
  }
}

// More rows than this go through shared memory. Both ways give the same bits.
constexpr std::size_t kFewRows = 32;

unsigned divide_up(std::size_t value, std::size_t divisor) {
  return static_cast<unsigned>((value + divisor - 1) / divisor);
}

template <DType kType>
void launch_task(Stream stream, Task task, std::size_t rows_each, std::size_t cols, unsigned experts) {
  task.units = static_cast<unsigned>(gpu_units(kType, cols));
  task.panel_bytes = gpu_panel_bytes(kType, cols);
  const unsigned groups = divide_up(task.units, group_units(kType));
  task.segment_groups = divide_up(groups, kMostSegments);
  unsigned panels = 0, pieces = 0;
  for (unsigned i = 0; i < (task.passes == 2 ? 1 : task.num_products); ++i) {
    panels += divide_up(task.products[i].outs, kGpuPanelOuts);
    pieces += divide_up(task.products[i].outs, kGpuPanelOuts * kBlockPanels);
  }
  const unsigned threads = 32 * divide_up(groups, task.segment_groups);
  if (rows_each <= 8) {
    launch(stream, {panels, experts}, {threads}, 0, multiply_few<kType, 1>, task);
  } else if (rows_each <= kFewRows) {
    launch(stream, {panels, experts}, {threads}, 0, multiply_few<kType, 4>, task);
  } else {
    launch(stream, {pieces, divide_up(rows_each, kBlockRows), experts}, {kBlockThreads}, 0, multiply_many<kType>, task);
  }
}

void launch_task(Stream stream, DType dtype, const Task& task, std::size_t rows_each, std::size_t cols,
                 unsigned experts) {
  switch (dtype) {
    case DType::kBF16: return launch_task<DType::kBF16>(stream, task, rows_each, cols, experts);
    case DType::kF16: return launch_task<DType::kF16>(stream, task, rows_each, cols, experts);
    case DType::kF32: return launch_task<DType::kF32>(stream, task, rows_each, cols, experts);
    case DType::kQ8_0: return launch_task<DType::kQ8_0>(stream, task, rows_each, cols, experts);
    case DType::kQ4_0:
    case DType::kInt4: return launch_task<DType::kQ4_0>(stream, task, rows_each, cols, experts);
    case DType::kQ5_0: return launch_task<DType::kQ5_0>(stream, task, rows_each, cols, experts);
    case DType::kQ4_K: return launch_task<DType::kQ4_K>(stream, task, rows_each, cols, experts);
    case DType::kQ5_K: return launch_task<DType::kQ5_K>(stream, task, rows_each, cols, experts);
    case DType::kQ6_K: return launch_task<DType::kQ6_K>(stream, task, rows_each, cols, experts);
    default: assert(dtype == DType::kInt8); return launch_task<DType::kInt8>(stream, task, rows_each, cols, experts);
  }
}

bool is_pair(const LinearProduct& gate, const LinearProduct& up) {
  return gate.epilogue == Epilogue::kSilu && up.epilogue == Epilogue::kMultiply && gate.out == up.out &&
         gate.weight.dtype == up.weight.dtype && gate.weight.rows == up.weight.rows;
}

}  // namespace

void linear(Stream stream, const LinearCall& call) {
  assert(call.num_products >= 1 && call.num_products <= kMostProducts);
  if (call.rows == 0) return;
  Task task{};
  bool is_prepared = call.is_prepared;
  InputForm form = call.form;
  for (std::size_t i = 0; i < call.num_products;) {
    const LinearProduct* products = call.products + i;
    const DType dtype = products->weight.dtype;
    const std::size_t left = call.num_products - i;
    std::size_t count = 1;
    task.passes = left >= 2 && is_pair(products[0], products[1]) ? 2 : 1;
    if (task.passes == 2) {
      count = 2;
    } else if (products->epilogue == Epilogue::kStore) {
      while (count < left && products[count].weight.dtype == dtype && products[count].epilogue == Epilogue::kStore) {
        ++count;
      }
    }
    const bool is_there = is_prepared && form == input_form(dtype);
    is_prepared = true;
    form = input_form(dtype);
    task.in = PreparedLayout(form, call.rows, call.cols).at(call.workspace);
    if (!is_there) {
      prepare_input(stream, form, {call.in, call.in_stride, nullptr, static_cast<unsigned>(call.cols)}, task.in);
    }
    for (std::size_t j = 0; j < count; ++j) {
      const LinearProduct& product = products[j];
      assert(product.weight.cols == call.cols);
      task.products[j] = {product.weight.image,
                          product.bias,
                          product.out,
                          product.out_stride,
                          static_cast<unsigned>(product.weight.rows),
                          product.epilogue};
    }
    task.num_products = static_cast<unsigned>(count);
    launch_task(stream, dtype, task, call.rows, call.cols, 1);
    i += count;
  }
}

void experts_linear(Stream stream, const ExpertsCall& call) {
  if (call.rows == 0) return;
  const InputForm form = input_form(call.dtype);
  Task task{};
  task.in = PreparedLayout(form, call.rows, call.cols).at(call.workspace);
  prepare_input(stream, form, {call.in, call.in_stride, call.row_of, static_cast<unsigned>(call.cols)}, task.in);
  const bool gated = call.up != nullptr;
  task.passes = gated ? 2 : 1;
  task.num_products = task.passes;
  for (unsigned i = 0; i < task.passes; ++i) {
    task.products[i] = {nullptr,
                        nullptr,
                        call.out,
                        call.out_stride,
                        static_cast<unsigned>(call.outs),
                        !gated   ? Epilogue::kStore
                        : i == 0 ? Epilogue::kSilu
                                 : Epilogue::kMultiply};
  }
  task.starts = call.starts;
  task.images[0] = call.gate;
  task.images[1] = call.up;
  // Rows are rarely shared out evenly.
  const std::size_t rows_each = (2 * call.rows + call.num_experts - 1) / call.num_experts;
  launch_task(stream, call.dtype, task, rows_each, call.cols, static_cast<unsigned>(call.num_experts));
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
