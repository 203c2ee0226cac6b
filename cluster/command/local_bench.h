#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cluster/roofline.h"
#include "kernels/tensor.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

struct LocalBenchOptions {
  std::string model;
  std::uint32_t prompt = 512;    // tokens of each sequence, >= 1
  std::uint32_t generate = 128;  // tokens of each sequence that are timed; 0 = only prefill
  std::uint32_t batch = 1;       // sequences at a time, >= 1
  std::uint32_t shards = 1;      // tensor-parallel ranks, >= 1
  std::uint32_t repetitions = 3;
  kernels::DType kv_dtype = kernels::DType::kF32;
  std::string packed_cache;         // a folder that keeps packed weights for later starts, or empty
  std::uint32_t max_guesses = 0;    // of a sequence in a step; 0 = no speculation
  std::string draft;                // the model that guesses; empty = the text so far does
  std::vector<int> cores;           // shared out among the shards; at least one each
  std::vector<std::uint32_t> gpus;  // or the shards' GPUs, one for each
  Limits limits;
};

// What bounds a step of this model on these cores, or on these GPUs: there it is always the bandwidth, of copies.
enum class Bound : std::uint8_t { kReadBandwidth, kMultiplyAdds, kCopyBandwidth };

// How a phase stands to its bound. `fraction` is the time that the bound leaves for it, divided by the time it took:
// 1 = nothing is left to gain.
struct BoundReport {
  Bound bound = Bound::kReadBandwidth;
  double fraction = 0;
};

// Medians over the repetitions, ratios taken within each. Seconds, tokens and bytes.
struct LocalBenchReport {
  std::string model;          // the directory's or file's name
  std::string format;         // as the weights are stored
  std::string kernels;        // the implementation in use
  std::uint32_t threads = 0;  // 0 on GPUs

  std::uint64_t file_bytes = 0;        // read of the model's files
  double load_s = 0;                   // from nothing to ready for a step
  double start_to_first_token_s = 0;   // from the start of the process, for a prompt of a few tokens
  double time_to_first_token_s = 0;    // from the arrival of the batch to a sequence's first token
  double prefill_tokens_per_s = 0;     // prompt tokens, until every sequence has its first token
  double decode_tokens_per_s = 0;      // of all sequences together
  double time_per_output_token_s = 0;  // of each sequence
  std::uint64_t guesses = 0;           // tokens guessed in all, warming up included
  std::uint64_t accepted_guesses = 0;  // of them, that came true

  std::uint64_t weight_bytes_per_token = 0;  // packed weights that a decode step reads, with the lm_head
  double bandwidth_bytes_per_s = 0;          // of this machine, beside the repetitions: of reading, or of copies
  MultiplyAddPeaks peaks;                    // likewise, of cores
  double multiply_add_peak = 0;              // the one of `peaks` that bounds this format and these kernels
  BoundReport prefill;
  BoundReport decode;
};

// Runs one model in this process: loads it, warms it up, and then in each repetition measures the machine and, right
// after, the time that `batch` sequences take to read their prompts and to generate. Random prompts, greedy answers;
// every token is sampled, and its keys and values are written and read.
// `progress` is told what is done, in words. Errors: as of LocalReplica, and kInvalidArgument for lengths beyond the
// model's.
Result<LocalBenchReport> run_local_bench(const LocalBenchOptions& options,
                                         const std::function<void(const std::string&)>& progress);

}  // namespace troupe::cluster
