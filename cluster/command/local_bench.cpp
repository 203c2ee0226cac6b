#include "cluster/command/local_bench.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "cluster/command/local_replica.h"
#include "cluster/copy_bandwidth.h"
#include "kernels/quant.h"
#include "runtime/base/philox.h"

namespace troupe::cluster {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kWarmUpPrompt = 8;
constexpr std::uint32_t kWarmUpTokens = 4;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

// Since the kernel made this process: what a user waits for, the loading of libraries included.
double seconds_since_process_start() {
  std::ifstream file("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  // The second field is a name in brackets that may hold anything; the start is the 22nd, in ticks since boot.
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         static_cast<double>(std::stoull(field)) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::string_view name_of(kernels::DType dtype) {
  switch (dtype) {
    case kernels::DType::kF32: return "F32";
    case kernels::DType::kF16: return "F16";
    case kernels::DType::kBF16: return "BF16";
    case kernels::DType::kI8: return "I8";
    case kernels::DType::kE4M3: return "E4M3";
    case kernels::DType::kI32: return "I32";
    case kernels::DType::kU8: return "U8";
    case kernels::DType::kQ8_0: return "Q8_0";
    case kernels::DType::kQ4_0: return "Q4_0";
    case kernels::DType::kQ5_0: return "Q5_0";
    case kernels::DType::kQ4_K: return "Q4_K";
    case kernels::DType::kQ5_K: return "Q5_K";
    case kernels::DType::kQ6_K: return "Q6_K";
    case kernels::DType::kInt8: return "int8";
    case kernels::DType::kInt4: return "int4";
  }
  return "?";
}

// Float formats are multiplied as float32, or BF16 as it is, all others as int8. Products of BF16 and tiles count only
// where the kernels use them.
double peak_of(const MultiplyAddPeaks& peaks, kernels::DType dtype, std::string_view kernels) {
  const bool tiles = kernels.find("amx") != std::string_view::npos;
  if (kernels::is_quantised(dtype)) return tiles ? peaks.amx_int8 : peaks.int8;
  if (dtype != kernels::DType::kBF16) return peaks.fp32;
  if (tiles) return peaks.amx_bf16;
  return kernels.find("bf16") != std::string_view::npos ? peaks.bf16 : peaks.fp32;
}

// What the machine can do at most, measured beside a repetition.
struct MachineSpeed {
  double bandwidth = 0;    // bytes a second
  MultiplyAddPeaks peaks;  // of cores
  double peak = 0;         // the one of them that counts; 0 = there is none
};

// Measures it, again and again: of cores in the calling thread, of GPUs in one of its own.
class Ceilings {
 public:
  static Result<Ceilings> make(const LocalBenchOptions& options) {
    Ceilings ceilings;
    if (options.gpus.empty()) {
      TROUPE_ASSIGN_OR_RETURN(ceilings.cores_, Roofline::make(options.cores));
    } else {
      const std::set<std::uint32_t> each_once(options.gpus.begin(), options.gpus.end());
      ceilings.gpus_.assign(each_once.begin(), each_once.end());
    }
    return ceilings;
  }

  Result<MachineSpeed> measure(kernels::DType dtype, std::string_view kernels) {
    if (cores_) {
      MachineSpeed speed{cores_->read_bandwidth(), cores_->peaks(), 0};
      speed.peak = peak_of(speed.peaks, dtype, kernels);
      return speed;
    }
    Result<double> bandwidth = 0.0;
    std::jthread([&] {
      bandwidth = [&]() -> Result<double> {
        TROUPE_ASSIGN_OR_RETURN(const auto copies, CopyBandwidth::make(gpus_));
        return copies->measure();
      }();
    }).join();
    TROUPE_RETURN_IF_ERROR(bandwidth);
    return MachineSpeed{*bandwidth, {}, 0};
  }

 private:
  std::unique_ptr<Roofline> cores_;
  std::vector<std::uint32_t> gpus_;
};

// Of all ranks together.
struct ModelSize {
  model::PackedSize layers;  // without experts
  model::PackedSize experts;
  model::PackedSize lm_head;
  double experts_share = 0;  // of the experts, that one token is routed to
  std::uint64_t file_bytes = 0;
};

ModelSize size_of(const LocalReplica& replica) {
  ModelSize size;
  for (std::size_t rank = 0; rank < replica.ranks(); ++rank) {
    const model::Transformer& transformer = replica.rank(rank).transformer();
    const model::ShardWeights& weights = transformer.weights();
    size.layers.bytes += weights.layers_size.bytes;
    size.layers.elements += weights.layers_size.elements;
    size.experts.bytes += weights.experts_size.bytes;
    size.experts.elements += weights.experts_size.elements;
    size.lm_head.bytes += weights.lm_head_size.bytes;
    size.lm_head.elements += weights.lm_head_size.elements;
    size.file_bytes += transformer.checkpoint_bytes_read();
  }
  const model::ModelConfig& config = replica.rank(0).transformer().config();
  if (config.num_experts != 0) size.experts_share = double(config.num_experts_per_token) / config.num_experts;
  return size;
}

// Bytes of packed weights that a step of so many rows reads. Of the experts, those that some row is routed to: as many
// as there are on average when every row chooses by chance.
double step_bytes(const ModelSize& size, double rows) {
  const double experts = double(size.experts.bytes) * (1 - std::pow(1 - size.experts_share, rows));
  return double(size.layers.bytes + size.lm_head.bytes) + experts;
}

// What `steps` steps of `rows` tokens and `logits_rows` sampled ones in all must at least take. Attention over the KV
// pages is left out: at these lengths it is a few percent.
struct LeastTime {
  double reading_s;
  double multiplying_s;  // 0 where its bound is not known

  Bound bound() const { return reading_s >= multiplying_s ? Bound::kReadBandwidth : Bound::kMultiplyAdds; }
  double seconds() const { return std::max(reading_s, multiplying_s); }
};

LeastTime least_time(const ModelSize& size, double steps, double rows, double logits_rows, const MachineSpeed& speed) {
  const double elements = double(size.layers.elements) + double(size.experts.elements) * size.experts_share;
  const double operations = 2 * (elements * rows + static_cast<double>(size.lm_head.elements) * logits_rows);
  return {steps * step_bytes(size, rows / steps) / speed.bandwidth, speed.peak > 0 ? operations / speed.peak : 0};
}

// Runs the replica and keeps the books of one repetition after another.
class LocalBench {
 public:
  LocalBench(const LocalBenchOptions& options, std::unique_ptr<LocalReplica> replica, std::uint32_t ramp,
             std::uint32_t vocab_size)
      : options_(options), replica_(std::move(replica)), ramp_(ramp), vocab_size_(vocab_size) {}

  struct Times {
    std::vector<double> first_token_s;  // (batch)
    double prefill_s = 0;               // until the last of them
    std::uint32_t prefill_steps = 0;
    std::vector<double> step_s;  // decode steps of the whole batch
    std::uint64_t decode_tokens = 0;
  };

  // `batch` fresh sequences: prompts, then steps until each of them has `generate` more tokens on average. While the
  // last prompts are read, the sequences that are done with theirs go on decoding, as they do when serving.
  Result<Times> run(std::uint32_t batch, std::uint32_t prompt, std::uint32_t generate) {
    std::set<std::uint64_t> waiting;
    for (std::uint32_t i = 0; i < batch; ++i) {
      waiting.insert(++request_);
      TROUPE_RETURN_IF_ERROR(replica_->admit(request_, random_prompt(request_, prompt),
                                             longest_answer(ramp_, generate, options_.max_guesses)));
    }
    Times times;
    const auto start = Clock::now();
    while (!waiting.empty()) {
      TROUPE_ASSIGN_OR_RETURN(const auto deltas, step());
      ++times.prefill_steps;
      for (const engine::Delta& delta : deltas) {
        if (!delta.tokens.empty() && waiting.erase(delta.request) == 1) {
          times.first_token_s.push_back(seconds_since(start));
        }
      }
    }
    times.prefill_s = seconds_since(start);
    const std::uint64_t wanted = std::uint64_t{batch} * generate;
    while (times.decode_tokens < wanted && !replica_->idle()) {
      const auto step_start = Clock::now();
      TROUPE_ASSIGN_OR_RETURN(const auto deltas, step());
      times.step_s.push_back(seconds_since(step_start));
      for (const engine::Delta& delta : deltas) times.decode_tokens += delta.tokens.size();
      // With guesses some sequences end before others.
      if (options_.max_guesses == 0 && deltas.size() != batch) {
        return internal_error("a decode step left out a sequence");
      }
    }
    replica_->cancel_all();
    return times;
  }

  static std::uint32_t longest_answer(std::uint32_t ramp, std::uint32_t generate, std::uint32_t max_guesses) {
    return ramp * (1 + max_guesses) + generate + max_guesses;
  }

  const LocalReplica& replica() const { return *replica_; }

 private:
  Result<std::vector<engine::Delta>> step() {
    TROUPE_ASSIGN_OR_RETURN(auto deltas, replica_->step());
    for (const engine::Delta& delta : deltas) {
      if (delta.error) return *delta.error;
    }
    return deltas;
  }

  std::vector<std::uint32_t> random_prompt(std::uint64_t seed, std::uint32_t length) const {
    std::vector<std::uint32_t> prompt(length);
    for (std::uint32_t i = 0; i < length; ++i) {
      prompt[i] = static_cast<std::uint32_t>(philox_uniform(seed, i) * vocab_size_);
    }
    return prompt;
  }

  const LocalBenchOptions& options_;
  std::unique_ptr<LocalReplica> replica_;
  const std::uint32_t ramp_;
  const std::uint32_t vocab_size_;
  std::uint64_t request_ = 0;
};

// Steps that it takes at most until every sequence has its first token: each step has room for the whole batch to
// decode, and gives the rest to prompts.
std::uint32_t most_prefill_steps(const LocalBenchOptions& options) {
  const auto room = static_cast<std::uint32_t>(options.limits.max_batch_tokens) - options.batch;
  return (options.batch * options.prompt + room - 1) / room + 1;
}

std::vector<kernels::ComputeDevice> devices_of(const LocalBenchOptions& options) {
  std::vector<kernels::ComputeDevice> devices;
  for (const std::uint32_t gpu : options.gpus) devices.push_back({.cores = {}, .gpu = gpu});
  if (!devices.empty()) return devices;
  const std::vector<int>& cores = options.cores;
  for (std::uint32_t shard = 0; shard < options.shards; ++shard) {
    const model::Range part = model::even_part(cores.size(), shard, options.shards);
    devices.push_back({.cores = {cores.begin() + static_cast<std::ptrdiff_t>(part.first),
                                 cores.begin() + static_cast<std::ptrdiff_t>(part.last)},
                       .gpu = {}});
  }
  return devices;
}

}  // namespace

Result<LocalBenchReport> run_local_bench(const LocalBenchOptions& options,
                                         const std::function<void(const std::string&)>& progress) {
  assert(options.prompt > 0 && options.batch > 0 && options.shards > 0);
  assert(options.gpus.empty() ? options.cores.size() >= options.shards : options.gpus.size() == options.shards);
  if (2 * std::uint64_t{options.batch} > options.limits.max_batch_tokens) {
    return invalid_argument(fmt::format("a batch of {} leaves too little of a step's {} tokens for prompts; at most {}",
                                        options.batch, options.limits.max_batch_tokens,
                                        options.limits.max_batch_tokens / 2));
  }
  const std::uint32_t ramp = std::max(most_prefill_steps(options), kWarmUpTokens);
  const auto load_start = Clock::now();
  TROUPE_ASSIGN_OR_RETURN(
      auto replica, LocalReplica::load({.model = options.model,
                                        .devices = devices_of(options),
                                        .batch = options.batch,
                                        .max_length = options.prompt + LocalBench::longest_answer(
                                                                           ramp, options.generate, options.max_guesses),
                                        .kv_dtype = options.kv_dtype,
                                        .packed_cache = options.packed_cache,
                                        .max_guesses = options.max_guesses,
                                        .draft = options.draft,
                                        .limits = options.limits}));
  const double load_s = seconds_since(load_start);
  const model::Transformer& first = replica->rank(0).transformer();
  const kernels::DType dtype = first.weights().stored_dtype;
  const ModelSize size = size_of(*replica);
  LocalBench bench(options, std::move(replica), ramp, first.config().vocab_size);

  LocalBenchReport report = {
      .model = std::filesystem::weakly_canonical(options.model).filename().string(),
      .format = std::string(name_of(dtype)),
      .kernels = std::string(bench.replica().rank(0).kernels_name()),
      .threads = options.gpus.empty() ? static_cast<std::uint32_t>(options.cores.size()) : 0,
      .file_bytes = size.file_bytes,
      .load_s = load_s,
      .weight_bytes_per_token = static_cast<std::uint64_t>(step_bytes(size, options.batch)),
  };
  TROUPE_RETURN_IF_ERROR(bench.run(1, std::min(options.prompt, kWarmUpPrompt), 0));
  report.start_to_first_token_s = seconds_since_process_start();
  TROUPE_RETURN_IF_ERROR(bench.run(1, std::min(options.prompt, kWarmUpPrompt), std::min(options.generate, 3u)));
  progress(fmt::format("loaded in {:.2f} s", load_s));
  bench.replica().wait_for_packed_cache();  // what is measured next has the disk and the cores for itself

  TROUPE_ASSIGN_OR_RETURN(Ceilings ceilings, Ceilings::make(options));
  const auto bound_of = [&](const LeastTime& least) {
    return options.gpus.empty() ? least.bound() : Bound::kCopyBandwidth;
  };
  std::vector<double> first_token_s, prefill_rates, prefill_fractions, decode_rates, decode_fractions, token_s;
  std::vector<double> bandwidths, peaks[5];
  for (std::uint32_t repetition = 0; repetition < options.repetitions; ++repetition) {
    TROUPE_ASSIGN_OR_RETURN(const MachineSpeed speed, ceilings.measure(dtype, report.kernels));
    TROUPE_ASSIGN_OR_RETURN(const LocalBench::Times times, bench.run(options.batch, options.prompt, options.generate));

    const MultiplyAddPeaks& measured = speed.peaks;
    bandwidths.push_back(speed.bandwidth);
    peaks[0].push_back(measured.fp32);
    peaks[1].push_back(measured.int8);
    peaks[2].push_back(measured.bf16);
    peaks[3].push_back(measured.amx_bf16);
    peaks[4].push_back(measured.amx_int8);
    const double tokens = double(options.batch) * options.prompt;
    const LeastTime prefill = least_time(size, times.prefill_steps, tokens, options.batch, speed);
    first_token_s.push_back(median(times.first_token_s));
    prefill_rates.push_back(tokens / times.prefill_s);
    prefill_fractions.push_back(prefill.seconds() / times.prefill_s);
    report.prefill.bound = bound_of(prefill);
    std::string line = fmt::format("repetition {}: prefill {:.1f} tokens/s", repetition + 1, prefill_rates.back());
    if (options.generate > 0) {
      double seconds = 0;
      for (const double step : times.step_s) seconds += step;
      const double decoded = double(times.decode_tokens), steps = double(times.step_s.size());
      const LeastTime decode = least_time(size, steps, decoded, decoded, speed);
      decode_rates.push_back(decoded / seconds);
      decode_fractions.push_back(decode.seconds() / seconds);
      token_s.push_back(median(times.step_s) * steps * options.batch / decoded);
      report.decode.bound = bound_of(decode);
      line += fmt::format(", decode {:.1f} tokens/s", decode_rates.back());
    }
    progress(line + fmt::format(", {} {:.1f} GB/s", options.gpus.empty() ? "reads" : "copies", speed.bandwidth * 1e-9));
  }
  report.time_to_first_token_s = median(first_token_s);
  report.prefill_tokens_per_s = median(prefill_rates);
  report.decode_tokens_per_s = median(decode_rates);
  report.time_per_output_token_s = median(token_s);
  const engine::SpeculationCounts counts = bench.replica().speculation();
  report.guesses = counts.proposed;
  report.accepted_guesses = counts.accepted;
  report.bandwidth_bytes_per_s = median(bandwidths);
  report.peaks = {median(peaks[0]), median(peaks[1]), median(peaks[2]), median(peaks[3]), median(peaks[4])};
  if (options.gpus.empty()) report.multiply_add_peak = peak_of(report.peaks, dtype, report.kernels);
  report.prefill.fraction = median(prefill_fractions);
  report.decode.fraction = median(decode_fractions);
  return report;
}

}  // namespace troupe::cluster
