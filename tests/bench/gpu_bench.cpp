// How near a GPU's own limits the kernels come: first what its memory and its tensor cores can do, then steps of Llama
// models with random weights made here, each as a share of what bounds it. Decoding reads every weight and the pages of
// all sequences once; a prompt multiplies every weight with each of its tokens.
//
//   gpu_bench [--gpu N] [--tiny] [--model 1b|8b] [--json FILE]
//
// --tiny: shapes for an emulated GPU (TROUPE_GPU=emulated), whose speed means nothing. Medians of kRounds.

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/gpu_list.h"
#include "kernels/quant.h"
#include "kernels/select.h"

using namespace troupe;
using namespace troupe::kernels;

namespace {

constexpr int kRounds = 5;
constexpr std::size_t kBlockSize = 16;
constexpr std::size_t kDifferentRows = 256;

struct Shape {
  std::string_view name;
  std::size_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab;
  std::size_t context;               // tokens that each decoding sequence has
  std::vector<std::size_t> batches;  // of decoding sequences
  std::vector<std::size_t> prompts;  // tokens
};

const Shape kShapes[] = {
    {"1b", 16, 2048, 8192, 32, 8, 64, 128'256, 1024, {1, 8, 64, 256}, {512, 2048, 8192}},
    {"8b", 32, 4096, 14'336, 32, 8, 128, 128'256, 1024, {1, 8, 64, 256}, {512, 2048, 8192}},
};
const Shape kTiny = {"tiny", 2, 64, 128, 4, 2, 32, 256, 20, {1, 3}, {24}};

// Ends the program with the error.
template <class T>
T must(Result<T> result, std::string_view what) {
  if (result.ok()) return std::move(result).value();
  fmt::print(stderr, "gpu_bench: {}: {}\n", what, result.error().message);
  std::exit(1);
}
void must(Result<void> result, std::string_view what) {
  if (result.ok()) return;
  fmt::print(stderr, "gpu_bench: {}: {}\n", what, result.error().message);
  std::exit(1);
}

class Bench {
 public:
  Bench(Kernels& kernels, std::string gpu, std::string json_file)
      : kernels_(kernels), memory_(kernels.memory()), gpu_(std::move(gpu)), json_file_(std::move(json_file)) {}

  ~Bench() {
    for (const auto& [memory, bytes] : pieces_) memory_.release(memory, bytes);
  }

  // Bytes a second that pass through the memory when it copies to itself: each byte is read and written.
  void measure_memory(std::size_t bytes) {
    void* from = take(bytes);
    void* to = take(bytes);
    const double seconds = seconds_of([&] { memory_.copy(to, from, bytes); }, 10);
    bytes_per_second_ = 2.0 * static_cast<double>(bytes) / seconds;
    fmt::print("{}, kernels {}\n", gpu_, kernels_.name());
    fmt::print("memory copied to itself: {:.0f} GB/s\n", bytes_per_second_ * 1e-9);
  }

  // Operations a second of a large product of BF16 matrices: of NVIDIA's own library, on a handle of its own to the
  // same GPU; of our kernels where there is no such library.
  void measure_products(std::uint32_t index, std::size_t size) {
    auto library = open_cublaslt();
    const bool by_library = library.ok() && !gpus_are_emulated();
    double seconds = 0;
    if (by_library) {
      seconds = library_seconds(**library, *must(open_gpu(index), "the GPU"), size);
    } else {
      const auto weight = random_weight(size, size, DType::kBF16);
      const MatrixF32 in = activations(size, size), out = activations(size, size);
      seconds = seconds_of([&] { kernels_.linear(in, {weight.get()}, out); }, 3);
    }
    operations_per_second_ = 2.0 * std::pow(static_cast<double>(size), 3) / seconds;
    fmt::print("BF16 product of {0} x {0} x {0}{1}: {2:.1f} Tflop/s\n\n", size,
               by_library ? " by cuBLASLt" : " by our own kernels", operations_per_second_ * 1e-12);
  }

  void run(const Shape& shape, DType dtype, std::string_view dtype_name) {
    Model model = make_model(shape, dtype);
    for (const std::size_t batch : shape.batches) {
      const double seconds = step_seconds(model, batch, 1, shape.context, batch);
      const double kv_bytes = 2.0 * static_cast<double>(batch * shape.context * shape.layers * shape.kv_heads *
                                                        shape.head_dim * sizeof(std::uint16_t));
      const double by_memory = (model.bytes + kv_bytes) / bytes_per_second_;
      const double by_products = 2.0 * model.elements * static_cast<double>(batch) / operations_per_second_;
      report(shape, dtype_name, fmt::format("decode {}", batch), static_cast<double>(batch) / seconds, seconds,
             by_memory, by_products);
    }
    for (const std::size_t prompt : shape.prompts) {
      const double seconds = step_seconds(model, 1, prompt, prompt, 1);
      // Scores and values: each token sees half of the prompt.
      const double attention = 4.0 * static_cast<double>(shape.layers * shape.heads * shape.head_dim) *
                               std::pow(static_cast<double>(prompt), 2) / 2;
      const double by_products =
          (2.0 * model.layer_elements * static_cast<double>(prompt) + attention) / operations_per_second_;
      report(shape, dtype_name, fmt::format("prompt {}", prompt), static_cast<double>(prompt) / seconds, seconds,
             model.bytes / bytes_per_second_, by_products);
    }
    release(model);
  }

  bool write_json() const {
    if (json_file_.empty()) return true;
    std::FILE* file = std::fopen(json_file_.c_str(), "w");
    if (file == nullptr) return false;
    fmt::print(file, "{{\"gpu\": \"{}\", \"copy_bytes_per_s\": {:.0f}, \"bf16_operations_per_s\": {:.0f}, \"steps\": [",
               gpu_, bytes_per_second_, operations_per_second_);
    for (std::size_t i = 0; i < steps_.size(); ++i) fmt::print(file, "{}{}", i == 0 ? "" : ", ", steps_[i]);
    fmt::print(file, "]}}\n");
    return std::fclose(file) == 0;
  }

 private:
  using Weight = std::unique_ptr<PackedWeight>;

  struct Layer {
    Weight query, key, value, output, gate, up, down;
    PagedKv kv;
  };
  struct Model {
    const Shape* shape = nullptr;
    std::vector<Layer> layers;
    Weight lm_head;
    std::span<const float> norm;  // one for all layers
    std::span<const float> inverse_frequencies;
    double bytes = 0;           // of all weights
    double elements = 0;        // of all weights
    double layer_elements = 0;  // without lm_head, which a prompt uses for its last token only
    std::size_t pieces_before = 0;
  };

  void* take(std::size_t bytes) {
    void* memory = must(memory_.allocate(bytes, "a benchmark"), "memory");
    pieces_.emplace_back(memory, bytes);
    return memory;
  }

  // Random numbers where the device computes.
  MatrixF32 activations(std::size_t rows, std::size_t cols) {
    std::vector<float> values(rows * cols);
    for (float& value : values) value = uniform_(random_);
    auto* data = static_cast<float*>(take(values.size() * sizeof(float)));
    memory_.upload(data, values.data(), values.size() * sizeof(float));
    return {data, rows, cols};
  }

  // Numbers around 1 / sqrt(cols), so that activations keep their size; quantised from them. The same kDifferentRows
  // over and over: to draw billions of numbers would take longer than the benchmark.
  Weight random_weight(std::size_t rows, std::size_t cols, DType dtype, std::size_t group = 0) {
    const std::size_t different = rows % kDifferentRows == 0 ? kDifferentRows : rows;
    const std::size_t bytes = matrix_bytes(dtype, different, cols);
    floats_.resize(different * cols);
    for (float& value : floats_) value = uniform_(random_) / std::sqrt(static_cast<float>(cols));
    stored_.resize(matrix_bytes(dtype, rows, cols));
    scales_.resize(rows);
    const ConstMatrixF32 values(floats_.data(), different, cols);
    if (dtype == DType::kInt8) {
      quantize_int8(values, stored_.data(), std::span(scales_).first(different));
    } else if (dtype == DType::kInt4) {
      quantize_int4(values, stored_.data());
    } else {
      auto* halves = reinterpret_cast<std::uint16_t*>(stored_.data());
      for (std::size_t i = 0; i < floats_.size(); ++i) halves[i] = bf16(floats_[i]);
    }
    for (std::size_t row = different; row < rows; row += different) {
      std::copy_n(stored_.data(), bytes, stored_.data() + row / different * bytes);
      std::copy_n(scales_.data(), different, scales_.data() + row);
    }
    return must(kernels_.pack({.data = stored_.data(),
                               .dtype = dtype,
                               .rows = rows,
                               .cols = cols,
                               .row_stride = cols,
                               .scales = dtype == DType::kInt8 ? scales_.data() : nullptr},
                              group),
                "a weight");
  }

  static std::uint16_t bf16(float value) {
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
  }

  double library_seconds(CublasLt& library, Gpu& gpu, std::size_t size) {
    std::vector<std::uint16_t> halves(size * size);
    for (auto& half : halves) half = bf16(uniform_(random_));
    const std::size_t bytes = halves.size() * sizeof halves[0];
    auto* in = static_cast<std::uint16_t*>(must(gpu.allocate(bytes), "memory"));
    auto* weight = static_cast<std::uint16_t*>(must(gpu.allocate(bytes), "memory"));
    auto* out = static_cast<float*>(must(gpu.allocate(2 * bytes), "memory"));
    auto* workspace = static_cast<std::byte*>(must(gpu.allocate(CublasLt::kWorkspaceBytes), "memory"));
    for (std::uint16_t* to : {in, weight}) gpu.copy_to_device(to, halves.data(), bytes);
    must(gpu.synchronize(), "copying");
    const LibraryProduct product = {.in = in,
                                    .in_stride = size,
                                    .weight = weight,
                                    .weight_stride = size,
                                    .out = out,
                                    .out_stride = size,
                                    .rows = size,
                                    .cols = size,
                                    .outs = size};
    const double seconds = seconds_of([&] { must(library.multiply(gpu.stream(), product, workspace), "cuBLASLt"); }, 3,
                                      [&] { return gpu.synchronize(); });
    for (void* memory :
         {static_cast<void*>(in), static_cast<void*>(weight), static_cast<void*>(out), static_cast<void*>(workspace)}) {
      gpu.free(memory);
    }
    return seconds;
  }

  Model make_model(const Shape& shape, DType dtype) {
    Model model{.shape = &shape, .pieces_before = pieces_.size()};
    const auto count = [&](const Weight& weight, bool in_layer) {
      model.bytes += static_cast<double>(weight->bytes());
      const double elements = static_cast<double>(weight->rows()) * static_cast<double>(weight->cols());
      model.elements += elements;
      if (in_layer) model.layer_elements += elements;
    };
    const std::size_t most_tokens =
        std::max(*std::ranges::max_element(shape.prompts), *std::ranges::max_element(shape.batches) * shape.context);
    const std::size_t blocks = (most_tokens + kBlockSize - 1) / kBlockSize + *std::ranges::max_element(shape.batches);
    const std::size_t width = shape.kv_heads * shape.head_dim;
    for (std::size_t index = 0; index < shape.layers; ++index) {
      Layer layer;
      layer.query = random_weight(shape.heads * shape.head_dim, shape.hidden, dtype, shape.head_dim);
      layer.key = random_weight(width, shape.hidden, dtype, shape.head_dim);
      layer.value = random_weight(width, shape.hidden, dtype, shape.head_dim);
      layer.output = random_weight(shape.hidden, shape.heads * shape.head_dim, dtype);
      layer.gate = random_weight(shape.intermediate, shape.hidden, dtype);
      layer.up = random_weight(shape.intermediate, shape.hidden, dtype);
      layer.down = random_weight(shape.hidden, shape.intermediate, dtype);
      for (const Weight* weight :
           {&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down}) {
        count(*weight, true);
      }
      layer.kv = {.keys = take(blocks * kBlockSize * width * 2),
                  .values = take(blocks * kBlockSize * width * 2),
                  .dtype = DType::kBF16,
                  .num_blocks = blocks,
                  .block_size = kBlockSize,
                  .num_kv_heads = shape.kv_heads,
                  .head_dim = shape.head_dim};
      model.layers.push_back(std::move(layer));
    }
    model.lm_head = random_weight(shape.vocab, shape.hidden, dtype);
    count(model.lm_head, false);
    model.norm = {activations(1, shape.hidden).data, shape.hidden};
    std::vector<float> frequencies;
    for (std::size_t i = 0; i < shape.head_dim / 2; ++i) {
      frequencies.push_back(std::pow(500'000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(shape.head_dim)));
    }
    auto* const there = static_cast<float*>(take(frequencies.size() * sizeof(float)));
    memory_.upload(there, frequencies.data(), frequencies.size() * sizeof(float));
    model.inverse_frequencies = {there, frequencies.size()};
    return model;
  }

  void release(Model& model) {
    model.layers.clear();
    while (pieces_.size() > model.pieces_before) {
      memory_.release(pieces_.back().first, pieces_.back().second);
      pieces_.pop_back();
    }
  }

  // Seconds of a step of `sequences` with `rows` new tokens each, at the end of `context` tokens, and logits of
  // `logits_rows` of them.
  double step_seconds(Model& model, std::size_t sequences, std::size_t rows, std::size_t context,
                      std::size_t logits_rows) {
    const Shape& shape = *model.shape;
    const std::size_t tokens = sequences * rows;
    const std::size_t pieces_before = pieces_.size();
    const MatrixF32 hidden = activations(tokens, shape.hidden);
    const MatrixF32 normed = activations(tokens, shape.hidden), partial = activations(tokens, shape.hidden);
    const MatrixF32 queries = activations(tokens, shape.heads * shape.head_dim);
    const MatrixF32 attended = activations(tokens, shape.heads * shape.head_dim);
    const MatrixF32 gated = activations(tokens, shape.intermediate);
    const MatrixF32 logits = activations(logits_rows, shape.vocab);
    std::vector<std::uint32_t> positions, slots, row_starts{0}, lengths, tables, table_starts{0};
    const std::size_t blocks = (context + kBlockSize - 1) / kBlockSize;
    for (std::size_t sequence = 0; sequence < sequences; ++sequence) {
      const std::size_t first_block = sequence * blocks;
      for (std::size_t position = context - rows; position < context; ++position) {
        positions.push_back(static_cast<std::uint32_t>(position));
        slots.push_back(static_cast<std::uint32_t>(first_block * kBlockSize + position));
      }
      for (std::size_t i = 0; i < blocks; ++i) tables.push_back(static_cast<std::uint32_t>(first_block + i));
      row_starts.push_back(static_cast<std::uint32_t>(positions.size()));
      lengths.push_back(static_cast<std::uint32_t>(context));
      table_starts.push_back(static_cast<std::uint32_t>(tables.size()));
    }
    const AttentionShape attention{shape.heads, shape.kv_heads, shape.head_dim,
                                   1 / std::sqrt(static_cast<float>(shape.head_dim)), 0};
    const auto step = [&] {
      kernels_.begin_step({.positions = positions,
                           .slots = slots,
                           .attention = {row_starts, lengths, tables, table_starts},
                           .shapes = {&attention, 1}});
      kernels_.rms_norm(hidden, model.norm, 1e-5f, normed);
      for (const Layer& layer : model.layers) {
        kernels_.project_qkv(normed, {{layer.query.get()}, {layer.key.get()}, {layer.value.get()}, {}, {}, 0},
                             {model.inverse_frequencies}, queries, layer.kv);
        kernels_.attention(queries, layer.kv, 0, attended);
        kernels_.linear(attended, {layer.output.get()}, partial);
        kernels_.add_rms_norm(partial, hidden, model.norm, 1e-5f, normed);
        kernels_.swiglu(normed, {layer.gate.get()}, {layer.up.get()}, gated);
        kernels_.linear(gated, {layer.down.get()}, partial);
        kernels_.add_rms_norm(partial, hidden, model.norm, 1e-5f, normed);
      }
      kernels_.linear(normed.rows_from(tokens - logits_rows, logits_rows), {model.lm_head.get()}, logits);
    };
    const double seconds = seconds_of(step, 3);
    while (pieces_.size() > pieces_before) {
      memory_.release(pieces_.back().first, pieces_.back().second);
      pieces_.pop_back();
    }
    return seconds;
  }

  double seconds_of(const std::function<void()>& work, int times) {
    return seconds_of(work, times, [this] { return memory_.synchronize(); });
  }

  // Of one call, over `times` calls in a row without waiting in between, the median of kRounds; after a warm-up.
  static double seconds_of(const std::function<void()>& work, int times, const std::function<Result<void>()>& wait) {
    using Clock = std::chrono::steady_clock;
    work();
    must(wait(), "a step");
    std::vector<double> rounds;
    for (int round = 0; round < kRounds; ++round) {
      const auto start = Clock::now();
      for (int i = 0; i < times; ++i) work();
      must(wait(), "a step");
      rounds.push_back(std::chrono::duration<double>(Clock::now() - start).count() / times);
    }
    std::ranges::sort(rounds);
    return rounds[kRounds / 2];
  }

  void report(const Shape& shape, std::string_view dtype, const std::string& what, double tokens_per_second,
              double seconds, double by_memory, double by_products) {
    const double bound = std::max(by_memory, by_products);
    const char* bound_name = by_memory >= by_products ? "memory" : "products";
    fmt::print("{:<5} {:<5} {:<12} {:>10.1f} tokens/s {:>9.3f} ms  {:>4.0f} % of what its {} allow{}\n", shape.name,
               dtype, what, tokens_per_second, seconds * 1e3, 100 * bound / seconds, bound_name,
               by_memory >= by_products ? "s" : "");
    std::fflush(stdout);
    steps_.push_back(fmt::format(
        "{{\"model\": \"{}\", \"weights\": \"{}\", \"step\": \"{}\", \"tokens_per_s\": {:.3f}, \"seconds\": {:.9f}, "
        "\"bound\": \"{}\", \"fraction\": {:.5f}}}",
        shape.name, dtype, what, tokens_per_second, seconds, bound_name, bound / seconds));
  }

  Kernels& kernels_;
  DeviceMemory& memory_;
  const std::string gpu_;
  const std::string json_file_;
  std::mt19937 random_{1};
  std::uniform_real_distribution<float> uniform_{-1, 1};
  std::vector<std::pair<void*, std::size_t>> pieces_;
  std::vector<float> floats_, scales_;  // of the latest random weight
  std::vector<std::byte> stored_;
  double bytes_per_second_ = 0;
  double operations_per_second_ = 0;
  std::vector<std::string> steps_;  // JSON objects
};

int refuse(const std::string& why) {
  fmt::print(stderr, "gpu_bench: {}\nusage: gpu_bench [--gpu N] [--tiny] [--model 1b|8b] [--json FILE]\n", why);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t index = 0;
  bool tiny = false;
  std::string model, json_file;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--tiny") {
      tiny = true;
      continue;
    }
    if (i + 1 == argc) return refuse("what does '" + std::string(option) + "' mean, or what should it be?");
    const std::string_view value = argv[++i];
    if (option == "--gpu") {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), index);
      if (error != std::errc() || end != value.data() + value.size()) return refuse("--gpu takes a number");
    } else if (option == "--model") {
      model = value;
      if (model != "1b" && model != "8b") return refuse("--model is 1b or 8b");
    } else if (option == "--json") {
      json_file = value;
    } else {
      return refuse("unknown option '" + std::string(option) + "'");
    }
  }
  const auto gpus = must(list_gpus(), "no GPU");
  if (index >= gpus.size()) return refuse("there is no cuda:" + std::to_string(index));
  const auto kernels = must(make_kernels({.cores = {}, .gpu = index}), "cuda:" + std::to_string(index));
  Bench bench(*kernels, gpus[index].name, json_file);
  bench.measure_memory(tiny ? 1 << 16 : std::size_t{1} << 30);
  bench.measure_products(index, tiny ? 64 : 8192);
  for (const auto& [dtype, name] : {std::pair{DType::kBF16, "bf16"}, {DType::kInt8, "int8"}, {DType::kInt4, "int4"}}) {
    if (tiny) {
      bench.run(kTiny, dtype, name);
      continue;
    }
    for (const Shape& shape : kShapes) {
      if (model.empty() || model == shape.name) bench.run(shape, dtype, name);
    }
  }
  if (bench.write_json()) return 0;
  fmt::print(stderr, "gpu_bench: {} cannot be written\n", json_file);
  return 1;
}
