#include "runtime/model/quantize.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>

#include "cluster/command/verbs.h"

namespace troupe::cluster {
namespace {

struct QuantizeOptions {
  std::string model;
  std::string format = "q8";
  std::string out;
};

int run_quantize(const QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto progress = [](const std::string& tensor, std::uint64_t bytes_read, std::uint64_t bytes_total) {
    fmt::print(stderr, "{:3} %  {}\n", bytes_read * 100 / std::max<std::uint64_t>(bytes_total, 1), tensor);
  };
  const auto report =
      model::quantize_model(options.model, options.out, *model::parse_quant_format(options.format), progress);
  if (!report.ok()) {
    fmt::print(stderr, "troupe: {}\n", report.error().message);
    return report.error().code == ErrorCode::kInvalidArgument ? 2 : 1;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{}: {:.1f} MB of weights from {:.1f} MB, in {:.1f} s\ntry it: troupe serve {}\n", options.out,
             static_cast<double>(report->bytes_after) / 1e6, static_cast<double>(report->bytes_before) / 1e6, seconds,
             options.out);
  return 0;
}

}  // namespace

VerbRun prepare_quantize(CLI::App& app) {
  auto options = std::make_shared<QuantizeOptions>();
  app.add_option("model", options->model, "a Hugging Face model directory with weights in float32, float16 or bfloat16")
      ->required();
  app.add_option("--format", options->format, "q8 or q4")->check(CLI::IsMember({"q8", "q4"}))->capture_default_str();
  app.add_option("--out", options->out, "directory to make; it must not hold anything yet")->required();
  app.footer(R"(Makes a smaller model of a model, which decodes faster where reading the weights is what takes the time:
  q8  every matrix in 8-bit integers with one scale for each output: about half of bfloat16, hardly any loss
  q4  the layers in 4-bit integers with one scale for 32 inputs, table and lm_head as in q8: about a third
Norms and biases stay as they are. The directory holds model.safetensors in the layout that the kernels read, so that
starting needs no conversion, a config.json that says so, and the tokenizer's files.

Examples:
  troupe quantize examples/models/tutor --format q8 --out tutor-q8
  troupe serve tutor-q8

GGUF files are quantised with llama.cpp's llama-quantize; troupe serves them as they are.
Exit codes: 0 written, 1 the model cannot be read or the directory not be written, 2 the command line is wrong.)");
  return [options] { return run_quantize(*options); };
}

}  // namespace troupe::cluster
