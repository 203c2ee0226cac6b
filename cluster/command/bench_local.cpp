#include "cluster/command/bench_local.h"

#include <fmt/format.h>
#include <sched.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <iostream>
#include <optional>
#include <thread>
#include <vector>

#include "cluster/command/output_file.h"
#include "cluster/topology.h"
#include "runtime/base/device.h"
#include "runtime/base/log.h"
#include "runtime/model/kv_pages.h"

namespace troupe::cluster {
namespace {

std::vector<int> open_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return {0};
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  return cores;
}

std::string_view name_of(Bound bound) {
  switch (bound) {
    case Bound::kReadBandwidth: return "read_bandwidth";
    case Bound::kMultiplyAdds: return "multiply_adds";
    case Bound::kCopyBandwidth: return "copy_bandwidth";
  }
  return "?";
}

std::string gpus_text(const LocalBenchOptions& options) {
  std::string text;
  for (const std::uint32_t gpu : options.gpus) text += (text.empty() ? "cuda:" : ",cuda:") + std::to_string(gpu);
  return text;
}

boost::json::object json_of(const LocalBenchOptions& options, const LocalBenchReport& report) {
  boost::json::object object{{"model", report.model},
                             {"format", report.format},
                             {"kernels", report.kernels},
                             {"threads", report.threads},
                             {"shards", options.shards},
                             {"prompt", options.prompt},
                             {"generate", options.generate},
                             {"batch", options.batch},
                             {"repetitions", options.repetitions},
                             {"file_bytes", report.file_bytes},
                             {"load_s", report.load_s},
                             {"start_to_first_token_s", report.start_to_first_token_s},
                             {"time_to_first_token_s", report.time_to_first_token_s},
                             {"prefill_tokens_per_s", report.prefill_tokens_per_s},
                             {"prefill_bound", name_of(report.prefill.bound)},
                             {"prefill_fraction_of_bound", report.prefill.fraction}};
  if (options.generate > 0) {
    object["decode_tokens_per_s"] = report.decode_tokens_per_s;
    object["time_per_output_token_s"] = report.time_per_output_token_s;
    object["bound"] = name_of(report.decode.bound);
    object["fraction_of_bound"] = report.decode.fraction;
  }
  if (options.max_guesses > 0) {
    object["guesses"] = report.guesses;
    object["accepted_guesses"] = report.accepted_guesses;
  }
  object["weight_bytes_per_token"] = report.weight_bytes_per_token;
  if (!options.gpus.empty()) {
    object["device"] = gpus_text(options);
    object["copy_bandwidth_bytes_per_s"] = report.bandwidth_bytes_per_s;
    return object;
  }
  object["read_bandwidth_bytes_per_s"] = report.bandwidth_bytes_per_s;
  object["multiply_add_peak"] = report.multiply_add_peak;
  object["multiply_add_peaks"] = {{"fp32", report.peaks.fp32},
                                  {"int8", report.peaks.int8},
                                  {"bf16", report.peaks.bf16},
                                  {"amx_bf16", report.peaks.amx_bf16},
                                  {"amx_int8", report.peaks.amx_int8}};
  return object;
}

std::string share_text(const BoundReport& report) {
  const std::string_view bound = report.bound == Bound::kReadBandwidth  ? "the read bandwidth"
                                 : report.bound == Bound::kMultiplyAdds ? "the multiply-add peak"
                                                                        : "the copy bandwidth";
  return fmt::format("{:4.0f} % of {}", 100 * report.fraction, bound);
}

void print_text(const LocalBenchOptions& options, const LocalBenchReport& report) {
  const auto row = [](std::string_view what, std::string_view value, std::string_view note = "") {
    fmt::print("  {:<20}{:>16}{}{}\n", what, value, note.empty() ? "" : "   ", note);
  };
  const std::string where = options.gpus.empty()
                                ? fmt::format("{} thread(s), {} shard(s)", report.threads, options.shards)
                                : gpus_text(options);
  fmt::print("{}, {}: kernels {}, {}; {} x ({} + {} tokens), median of {}\n\n", report.model, report.format,
             report.kernels, where, options.batch, options.prompt, options.generate, options.repetitions);
  row("load", fmt::format("{:.2f} s", report.load_s),
      fmt::format("{:.2f} GB from files; first token {:.2f} s after the start", double(report.file_bytes) * 1e-9,
                  report.start_to_first_token_s));
  row("first token", fmt::format("{:.0f} ms", 1e3 * report.time_to_first_token_s), "of a prompt, warm");
  row("prefill", fmt::format("{:.1f} tokens/s", report.prefill_tokens_per_s), share_text(report.prefill));
  if (options.generate > 0) {
    row("decode", fmt::format("{:.1f} tokens/s", report.decode_tokens_per_s), share_text(report.decode));
    row("step", fmt::format("{:.1f} ms", 1e3 * report.time_per_output_token_s),
        fmt::format("{:.2f} GB of weights", double(report.weight_bytes_per_token) * 1e-9));
  }
  if (options.max_guesses > 0) {
    row("guesses", fmt::format("{} of {}", report.accepted_guesses, report.guesses), "came true");
  }
  if (!options.gpus.empty()) {
    return row("copies", fmt::format("{:.1f} GB/s", report.bandwidth_bytes_per_s * 1e-9),
               "read and written, of all GPUs together");
  }
  row("this machine", fmt::format("{:.1f} GB/s", report.bandwidth_bytes_per_s * 1e-9),
      fmt::format("{:.0f} Gflop/s float32, {:.0f} Gop/s int8", report.peaks.fp32 * 1e-9, report.peaks.int8 * 1e-9) +
          (report.peaks.bf16 > 0 ? fmt::format(", {:.0f} Gflop/s bfloat16", report.peaks.bf16 * 1e-9) : "") +
          (report.peaks.amx_int8 > 0 ? fmt::format(", AMX {:.0f} Gflop/s bfloat16, {:.0f} Gop/s int8",
                                                   report.peaks.amx_bf16 * 1e-9, report.peaks.amx_int8 * 1e-9)
                                     : ""));
}

// The GPUs that --device names, one for each shard.
Result<void> take_devices(BenchLocalOptions& options) {
  for (const std::string& text : options.devices) {
    const auto device = parse_device(text);
    if (!device.ok()) return invalid_argument("--device: " + device.error().message);
    if (device->kind != Device::Kind::kCuda) {
      return invalid_argument("--device " + text + ": only GPUs are named, as cuda:0; for cores there is --threads");
    }
    options.local.gpus.push_back(device->first);
  }
  const auto gpus = static_cast<std::uint32_t>(options.local.gpus.size());
  if (gpus == 0) return {};
  if (options.threads != 0) return invalid_argument("--threads: of cores; a GPU needs none");
  if (options.local.shards != 1 && options.local.shards != gpus) {
    return invalid_argument(
        fmt::format("--shards {}: --device names {} GPU(s), one for each shard", options.local.shards, gpus));
  }
  options.local.shards = gpus;
  return {};
}

}  // namespace

int run_bench_local(BenchLocalOptions options, const std::string& json_file) {
  const auto refuse = [](const std::string& why) {
    std::cerr << "troupe bench: " << why << "\n";
    return 2;
  };
  if (auto taken = take_devices(options); !taken.ok()) return refuse(taken.error().message);
  std::vector<int> cores = open_cores();
  if (options.threads > cores.size()) {
    return refuse(fmt::format("--threads {}: this process may use {} core(s)", options.threads, cores.size()));
  }
  if (options.threads != 0) cores.resize(options.threads);
  if (options.local.gpus.empty() && options.local.shards > cores.size()) {
    return refuse(fmt::format("--shards {}: each needs a thread of its own, and there are {}", options.local.shards,
                              cores.size()));
  }
  options.local.cores = std::move(cores);
  const auto kv_dtype = model::parse_kv_dtype(options.kv_dtype);
  if (!kv_dtype.ok()) return refuse("--kv-dtype: " + kv_dtype.error().message);
  options.local.kv_dtype = *kv_dtype;
  const auto speculation = parse_speculation_or_draft(options.speculate);
  if (!speculation.ok()) return refuse("--speculate: " + speculation.error().message);
  options.local.max_guesses = speculation->max_guesses();
  options.local.draft = *speculation->model;
  if (auto logging = start_logging("bench", "warn", "text"); !logging.ok()) return refuse(logging.error().message);
  std::optional<Result<LocalBenchReport>> ran;
  // In a thread of its own: it becomes pinned, and which cores are open to the process is asked of its first thread.
  std::jthread([&] {
    ran =
        run_local_bench(options.local, [](const std::string& line) { std::cerr << "troupe bench: " << line << "\n"; });
  }).join();
  const Result<LocalBenchReport>& report = *ran;
  if (!report.ok()) {
    std::cerr << "troupe bench: " << report.error().message << "\n";
    return report.error().code == ErrorCode::kInvalidArgument ? 2 : 1;
  }
  if (json_file.empty()) {
    print_text(options.local, *report);
    return 0;
  }
  return write_output("troupe bench", json_file, boost::json::serialize(json_of(options.local, *report)) + "\n");
}

void add_bench_local_options(CLI::App& app, BenchLocalOptions& options) {
  LocalBenchOptions& local = options.local;
  const auto count = [&](const char* name, std::uint32_t& value, std::uint32_t least, const char* what) {
    return app.add_option(name, value, what)->check(CLI::Range(least, std::uint32_t{1} << 20))->group(kBenchLocalGroup);
  };
  app.add_option("--local", local.model,
                 "The model to run in this process, without a gateway: a directory or a .gguf file")
      ->group(kBenchLocalGroup);
  count("--prompt", local.prompt, 1, "Tokens of each prompt")->capture_default_str();
  count("--generate", local.generate, 0, "Tokens to generate for each prompt; 0 = only read prompts")
      ->capture_default_str();
  count("--batch", local.batch, 1, "Sequences at a time")->capture_default_str();
  count("--threads", options.threads, 1, "Cores to compute on; default: all that this process may use");
  app.add_option("--device", options.devices,
                 "A GPU to compute on instead of cores, as cuda:0; several, with commas, are tensor-parallel ranks")
      ->delimiter(',')
      ->group(kBenchLocalGroup);
  count("--shards", local.shards, 1, "Tensor-parallel ranks, which share the threads")->capture_default_str();
  count("--repetitions", local.repetitions, 1, "Of which medians are printed")->capture_default_str();
  app.add_option("--kv-dtype", options.kv_dtype, "What KV pages are stored as: f32, f16, bf16, int8 or fp8")
      ->capture_default_str()
      ->group(kBenchLocalGroup);
  app.add_option(
         "--speculate", options.speculate,
         "What guesses tokens for the model to check: ngram (the text so far), off, or a draft's model directory")
      ->capture_default_str()
      ->group(kBenchLocalGroup);
  app.add_option("--packed-cache", options.local.packed_cache, "A folder that keeps packed weights for later starts")
      ->group(kBenchLocalGroup);
}

}  // namespace troupe::cluster
