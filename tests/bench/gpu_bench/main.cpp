// How near a GPU's own limits the kernels come: first what its memory and its tensor cores can do, then steps of models
// with random weights made here, each as a share of what bounds it. Decoding reads the weights that its tokens need and
// the pages of all sequences once; a prompt multiplies these weights with each of its tokens.
//
//   gpu_bench [--gpu N] [--tiny] [--model 1b|8b|moe] [--json FILE]
//
// --tiny: shapes for an emulated GPU (TROUPE_GPU=emulated), whose speed means nothing.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

#include "kernels/cuda/gpu_list.h"
#include "kernels/select.h"
#include "tests/bench/gpu_bench/bench.h"
#include "tests/bench/gpu_bench/ceilings.h"
#include "tests/bench/gpu_bench/random_model.h"
#include "tests/bench/gpu_bench/shapes.h"

using namespace troupe;
using namespace troupe::bench;
using kernels::DType;

namespace {

constexpr std::pair<DType, std::string_view> kWeights[] = {
    {DType::kBF16, "bf16"}, {DType::kInt8, "int8"}, {DType::kInt4, "int4"}};

// What bounds a step: bytes that pass through memory, and operations.
struct Work {
  double bytes = 0;
  double operations = 0;
};

class Report {
 public:
  Report(std::string gpu, const Ceilings& ceilings) : gpu_(std::move(gpu)), ceilings_(ceilings) {}

  void add(const Shape& shape, std::string_view weights, const std::string& what, std::size_t tokens,
           const StepTime& time, const Work& work) {
    const double by_memory = work.bytes / ceilings_.bytes_per_second;
    const double by_products = work.operations / ceilings_.operations_per_second;
    const double bound = std::max(by_memory, by_products);
    const std::string_view bound_name = by_memory >= by_products ? "memory" : "products";
    const double tokens_per_second = static_cast<double>(tokens) / time.seconds;
    fmt::print("{:<7} {:<5} {:<20} {:>10.1f} tokens/s {:>9.3f} ms  {:>4.0f} % of what its {} allow{}", shape.name,
               weights, what, tokens_per_second, time.seconds * 1e3, 100 * bound / time.seconds, bound_name,
               by_memory >= by_products ? "s" : "");
    if (time.gap_seconds > 0) fmt::print("; {:.0f} us idle between steps", time.gap_seconds * 1e6);
    fmt::print("\n");
    std::fflush(stdout);
    steps_.push_back(fmt::format(
        "{{\"model\": \"{}\", \"weights\": \"{}\", \"step\": \"{}\", \"tokens_per_s\": {:.3f}, \"seconds\": {:.9f}, "
        "\"gap_seconds\": {:.9f}, \"bound\": \"{}\", \"fraction\": {:.5f}}}",
        shape.name, weights, what, tokens_per_second, time.seconds, time.gap_seconds, bound_name,
        bound / time.seconds));
  }
  void skip(const Shape& shape, std::string_view weights, const std::string& what) {
    fmt::print("{:<7} {:<5} {:<20} skipped: more memory than the GPU has free\n", shape.name, weights, what);
  }

  bool write_json(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return false;
    fmt::print(
        file,
        "{{\"gpu\": \"{}\", \"copy_bytes_per_s\": {:.0f}, \"bf16_operations_per_s\": {:.0f}, \"by_library\": {}, "
        "\"steps\": [",
        gpu_, ceilings_.bytes_per_second, ceilings_.operations_per_second, ceilings_.by_library);
    for (std::size_t i = 0; i < steps_.size(); ++i) fmt::print(file, "{}{}", i == 0 ? "" : ", ", steps_[i]);
    fmt::print(file, "]}}\n");
    return std::fclose(file) == 0;
  }

 private:
  const std::string gpu_;
  const Ceilings ceilings_;
  std::vector<std::string> steps_;  // JSON objects
};

void measure(Bench& bench, const Shape& shape, DType dtype, std::string_view weights, Report& report) {
  if (!RandomModel::fits(bench, shape, dtype)) return report.skip(shape, weights, "all");
  RandomModel model(bench, shape, dtype);
  const double per_token = model.elements_per_token();
  for (const auto [batch, context] : shape.decodes) {
    const std::string what = fmt::format("decode {} at {}", batch, context);
    if (!model.has_pages_for(batch, context)) {
      report.skip(shape, weights, what);
      continue;
    }
    const auto sequences = static_cast<double>(batch);
    report.add(shape, weights, what, batch, model.step_time(batch, 1, context),
               {model.weight_bytes(batch) + sequences * static_cast<double>(context) * model.kv_bytes_per_token(),
                2 * sequences * (per_token + model.lm_head_elements())});
  }
  for (const std::size_t prompt : shape.prompts) {
    const std::string what = fmt::format("prompt {}", prompt);
    if (!model.has_pages_for(1, prompt)) {
      report.skip(shape, weights, what);
      continue;
    }
    const auto tokens = static_cast<double>(prompt);
    // Scores and values: each token sees half of the prompt.
    const double attention =
        4.0 * static_cast<double>(shape.layers * shape.heads * shape.head_dim) * tokens * tokens / 2;
    report.add(shape, weights, what, prompt, model.step_time(1, prompt, prompt),
               {model.weight_bytes(prompt), 2 * (per_token * tokens + model.lm_head_elements()) + attention});
  }
  // The same for every type of weights.
  const auto [batch, context] = shape.attention;
  if (dtype != DType::kBF16) return;
  const std::string what = fmt::format("attention {} at {}", batch, context);
  if (!model.has_pages_for(batch, context)) return report.skip(shape, weights, what);
  const double bytes =
      static_cast<double>(batch * context) * model.kv_bytes_per_token() / static_cast<double>(shape.layers);
  report.add(shape, weights, what, batch, {.seconds = model.attention_seconds(batch, context)}, {bytes, 0});
}

int refuse(const std::string& why) {
  fmt::print(stderr, "gpu_bench: {}\nusage: gpu_bench [--gpu N] [--tiny] [--model 1b|8b|moe] [--json FILE]\n", why);
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
      const bool known = std::ranges::any_of(shapes(), [&](const Shape& shape) { return shape.name == model; });
      if (!known) return refuse("--model is 1b, 8b or moe");
    } else if (option == "--json") {
      json_file = value;
    } else {
      return refuse("unknown option '" + std::string(option) + "'");
    }
  }
  const auto gpus = must(kernels::list_gpus(), "no GPU");
  if (index >= gpus.size()) return refuse("there is no cuda:" + std::to_string(index));
  const auto open = [&] {
    return must(kernels::make_kernels({.cores = {}, .gpu = index}), "cuda:" + std::to_string(index));
  };
  const double seconds = tiny ? 0.02 : 1;  // of a measurement
  const std::size_t size = tiny ? 64 : 8192;
  Ceilings ceilings;
  {
    const auto kernels = open();
    Bench bench(*kernels, seconds);
    ceilings = measure_ceilings(bench, index, tiny ? 1 << 16 : std::size_t{1} << 30, size);
    fmt::print("{}, kernels {}\nmemory copied to itself: {:.0f} GB/s\n", gpus[index].name, kernels->name(),
               ceilings.bytes_per_second * 1e-9);
  }
  fmt::print("BF16 product of {0} x {0} x {0}{1}: {2:.1f} Tflop/s\n\n", size,
             ceilings.by_library ? " by cuBLASLt" : " by our own kernels", ceilings.operations_per_second * 1e-12);
  Report report(gpus[index].name, ceilings);
  for (const Shape& shape : tiny ? tiny_shapes() : shapes()) {
    if (!tiny && !model.empty() && model != shape.name) continue;
    for (const auto& [dtype, name] : kWeights) {
      const auto kernels = open();  // of one model, as a shard's are
      Bench bench(*kernels, seconds);
      measure(bench, shape, dtype, name, report);
    }
  }
  if (json_file.empty() || report.write_json(json_file)) return 0;
  fmt::print(stderr, "gpu_bench: {} cannot be written\n", json_file);
  return 1;
}
