#include "kernels/cuda/sampling.h"

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/sampling_exp.cuh"
#include "kernels/cuda/simt.h"
#include "runtime/base/philox.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 512;
constexpr unsigned kWarps = kThreads / 32;

// A logit and its token as one number: a larger logit is more, and of equal ones the lower token. No key is 0.
using Key = unsigned long long;

__device__ __forceinline__ Key key_of(float logit, unsigned token) {
  const std::uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 is 0
  const std::uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return Key{ordered} << 32 | static_cast<std::uint32_t>(~token);
}
__device__ __forceinline__ unsigned token_of(Key key) { return ~static_cast<std::uint32_t>(key); }

// exp((logit - max) / temperature), and 0 below e^-50: engine::Sampler's weight_of.
__device__ __forceinline__ float weight_of(float logit, float max_logit, float temperature) {
  const float exponent = (logit - max_logit) / temperature;
  return exponent < -50.0f ? 0.0f : exp_as_glibc(exponent);
}

// A row's part of the workspace, each (vocabulary).
struct RowMemory {
  float* logits;             // modified
  float* weights;            // of all tokens
  Key* keys;                 // of candidates
  float* candidate_weights;  // theirs
  unsigned* marks;
  unsigned* generated;
};
static_assert(sample_row_bytes(16) == 16 * (sizeof(Key) + 5 * sizeof(float)));

__device__ __forceinline__ RowMemory memory_of(const SampleCall& call, unsigned row) {
  std::byte* memory = call.workspace + row * sample_row_bytes(call.vocabulary);
  auto* keys = reinterpret_cast<Key*>(memory);
  auto* floats = reinterpret_cast<float*>(keys + call.vocabulary);
  auto* marks = reinterpret_cast<unsigned*>(floats + 3 * call.vocabulary);
  return {floats, floats + call.vocabulary, keys, floats + 2 * call.vocabulary, marks, marks + call.vocabulary};
}

// Adds the biases of tokens, of one token in their order.
__device__ void add_biases(const SampleCall& call, const SamplingRow& parameters, float* row) {
  for (unsigned i = parameters.biases[0] + threadIdx.x; i < parameters.biases[1]; i += kThreads) {
    const unsigned token = call.bias_tokens[i];
    bool is_first = token < call.vocabulary;
    for (unsigned j = parameters.biases[0]; j < i && is_first; ++j) is_first = call.bias_tokens[j] != token;
    if (!is_first) continue;
    for (unsigned j = i; j < parameters.biases[1]; ++j) {
      if (call.bias_tokens[j] == token) row[token] += call.bias_values[j];
    }
  }
}

// Each token of the history once: by the thread that has its last place in it.
__device__ void penalize(const SampleCall& call, const SamplingRow& parameters, const RowMemory& memory) {
  const unsigned length = parameters.history[1] - parameters.history[0];
  const std::uint32_t* history = call.history + parameters.history[0];
  for (unsigned i = threadIdx.x; i < length; i += kThreads) memory.marks[history[i]] = memory.generated[history[i]] = 0;
  __syncthreads();
  for (unsigned i = threadIdx.x; i < length; i += kThreads) {
    atomicMax(&memory.marks[history[i]], i + 1);
    if (i >= parameters.prompt_length) atomicAdd(&memory.generated[history[i]], 1u);
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < length; i += kThreads) {
    const unsigned token = history[i];
    if (memory.marks[token] != i + 1) continue;
    float logit = memory.logits[token];
    const float penalty = parameters.repetition_penalty;
    logit = logit > 0 ? logit / penalty : logit * penalty;
    const unsigned count = memory.generated[token];
    if (count > 0) {
      logit -= parameters.presence_penalty + parameters.frequency_penalty * static_cast<float>(count);
    }
    memory.logits[token] = logit;
  }
}

// The logits with biases, penalties and mask: in memory, or as they are where nothing changes them.
__device__ const float* modified(const SampleCall& call, const SamplingRow& parameters, const float* logits,
                                 const RowMemory& memory) {
  const bool penalizes = parameters.has_penalties();
  const bool masks = parameters.masked[0] != parameters.masked[1];
  if (parameters.biases[0] == parameters.biases[1] && !penalizes && !masks) return logits;
  for (unsigned token = threadIdx.x; token < call.vocabulary; token += kThreads) memory.logits[token] = logits[token];
  __syncthreads();
  add_biases(call, parameters, memory.logits);
  __syncthreads();
  if (penalizes) penalize(call, parameters, memory);
  __syncthreads();
  for (unsigned i = parameters.masked[0] + threadIdx.x; i < parameters.masked[1]; i += kThreads) {
    if (call.masked[i] < call.vocabulary) memory.logits[call.masked[i]] = -INFINITY;
  }
  __syncthreads();
  return memory.logits;
}

// The key of the largest logit; 0 where the row holds a NaN.
__device__ Key largest_key(const float* row, unsigned vocabulary, Key below) {
  Key largest = 0;
  bool is_number = true;
  for (unsigned token = threadIdx.x; token < vocabulary; token += kThreads) {
    const float logit = row[token];
    is_number = is_number && logit == logit;
    const Key key = key_of(logit, token);
    if (key < below && key > largest) largest = key;
  }
  largest = max_block<kThreads>(largest);
  return sum_block<kThreads>(is_number ? 0u : 1u) == 0 ? largest : 0;
}

// The first index at which the running sum of weights exceeds target, or the last with a weight. weight(i): of [0,
// count). Ever smaller parts of the row are shared out among the warps.
template <class Weight>
__device__ unsigned draw_in_order(unsigned count, double target, const Weight& weight) {
  __shared__ double part_sums[kWarps];
  __shared__ unsigned drawn;
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  unsigned begin = 0, end = count;
  double before = 0;
  while (end - begin > kThreads) {
    const unsigned part = ((end - begin + kWarps - 1) / kWarps + 31) / 32 * 32;
    const unsigned first = begin + warp * part, last = min(end, first + part);
    double sum = 0;
    for (unsigned i = first + lane; i < last; i += 32) sum += weight(i);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (lane == 0) part_sums[warp] = sum;
    __syncthreads();
    unsigned chosen = 0;
    double chosen_before = before, running = before;
    for (unsigned i = 0; i < kWarps; ++i) {
      if (part_sums[i] == 0) continue;
      chosen = i;
      chosen_before = running;
      running += part_sums[i];
      if (running > target) break;
    }
    __syncthreads();
    before = chosen_before;
    begin += chosen * part;
    end = min(end, begin + part);
  }
  if (warp == 0) {
    unsigned found = begin;
    bool is_done = false;
    for (unsigned first = begin; first < end && !is_done; first += 32) {
      const float mine = first + lane < end ? weight(first + lane) : 0.0f;
      double sum = mine;
#pragma unroll
      for (unsigned step = 1; step < 32; step *= 2) {
        const double other = __shfl_up_sync(kAllLanes, sum, step);
        if (lane >= step) sum += other;
      }
      const unsigned weighty = __ballot_sync(kAllLanes, mine != 0);
      const unsigned beyond = __ballot_sync(kAllLanes, mine != 0 && before + sum > target);
      is_done = beyond != 0;
      if (is_done) {
        found = first + __ffs(static_cast<int>(beyond)) - 1;
      } else if (weighty != 0) {
        found = first + 31 - __clz(static_cast<int>(weighty));
      }
      before += __shfl_sync(kAllLanes, sum, 31);
    }
    if (lane == 0) drawn = found;
  }
  __syncthreads();
  const unsigned result = drawn;
  __syncthreads();
  return result;
}

// The largest key such that what measure(i) gives for candidates from there up adds up to what reached() wants; 0 where
// nothing does.
template <class T, class Measure, class Reached>
__device__ Key descend(const Key* keys, unsigned count, const Measure& measure, const Reached& reached) {
  Key key = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const Key candidate = key | Key{1} << bit;
    T sum = 0;
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < count; i += kThreads) {
      if (keys[i] >= candidate) sum += measure(i);
    }
    if (reached(sum_block<kThreads>(sum))) key = candidate;
  }
  return key;
}

// The weights at which the row is divided, so that only the part that matters is looked at again and again.
constexpr unsigned kSteps = 8;
__device__ __forceinline__ float step_weight(unsigned step) {
  constexpr float kWeights[kSteps] = {0x1p-1f, 0x1p-3f, 0x1p-6f, 0x1p-9f, 0x1p-13f, 0x1p-18f, 0x1p-30f, 0x1p-126f};
  return kWeights[step];
}

// The smallest weight that a candidate has: of the steps, the first at which there are as many as top_k, or as much as
// top_p of the whole.
__device__ float least_weight(const RowMemory& memory, unsigned vocabulary, unsigned top_k, float top_p,
                              double& whole) {
  double sums[kSteps] = {};
  unsigned counts[kSteps] = {};
#pragma unroll 1
  for (unsigned token = threadIdx.x; token < vocabulary; token += kThreads) {
    const float weight = memory.weights[token];
    float above = INFINITY;
#pragma unroll
    for (unsigned step = 0; step < kSteps; ++step) {
      if (weight >= step_weight(step) && weight < above) {
        sums[step] += weight;
        ++counts[step];
      }
      above = step_weight(step);
    }
  }
  whole = 0;
#pragma unroll
  for (unsigned step = 0; step < kSteps; ++step) {
    sums[step] = sum_block<kThreads>(sums[step]);
    counts[step] = sum_block<kThreads>(counts[step]);
    whole += sums[step];
  }
  double sum = 0;
  unsigned count = 0;
  float least = step_weight(kSteps - 1);
#pragma unroll
  for (unsigned step = 0; step < kSteps; ++step) {
    sum += sums[step];
    count += counts[step];
    if (top_k > 0 ? count >= top_k : sum >= top_p * whole) {
      least = step_weight(step);
      break;
    }
  }
  return least;
}

// Keys and weights of all tokens of at least that weight, in the order of tokens. Returns how many.
__device__ unsigned gather_candidates(const float* row, const RowMemory& memory, unsigned vocabulary, float least) {
  __shared__ unsigned counts[kWarps];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned part = ((vocabulary + kWarps - 1) / kWarps + 31) / 32 * 32;
  const unsigned first = warp * part, end = min(vocabulary, first + part);
  unsigned count = 0;
  for (unsigned token = first; token < end; token += 32) {
    count += __popc(__ballot_sync(kAllLanes, token + lane < end && memory.weights[token + lane] >= least));
  }
  if (lane == 0) counts[warp] = count;
  __syncthreads();
  unsigned place = 0, all = 0;
#pragma unroll
  for (unsigned other = 0; other < kWarps; ++other) {
    place += other < warp ? counts[other] : 0;
    all += counts[other];
  }
  for (unsigned base = first; base < end; base += 32) {
    const unsigned token = base + lane;
    const bool is_candidate = token < end && memory.weights[token] >= least;
    const unsigned votes = __ballot_sync(kAllLanes, is_candidate);
    if (is_candidate) {
      const unsigned at = place + __popc(votes & ((1u << lane) - 1));
      memory.keys[at] = key_of(row[token], token);
      memory.candidate_weights[at] = memory.weights[token];
    }
    place += __popc(votes);
  }
  __syncthreads();
  return all;
}

// Draws from what top-k, top-p and min-p leave, best first.
__device__ unsigned draw_from_top(const float* row, const RowMemory& memory, unsigned vocabulary,
                                  const SamplingRow& parameters, double uniform) {
  const unsigned top_k = parameters.top_k < vocabulary ? parameters.top_k : 0;
  double whole;  // what top-p is a part of
  const float least = least_weight(memory, vocabulary, top_k, parameters.top_p, whole);
  const unsigned count = gather_candidates(row, memory, vocabulary, least);
  const Key* keys = memory.keys;
  const float* weights = memory.candidate_weights;
  const auto weigh = [&](unsigned i) { return static_cast<double>(weights[i]); };
  const auto sum_from = [&](Key worst) {
    double sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += kThreads) {
      if (keys[i] >= worst && weights[i] >= parameters.min_p) sum += weights[i];
    }
    return sum_block<kThreads>(sum);
  };

  Key worst = 0;  // that is kept
  if (top_k > 0) {
    worst = descend<unsigned>(
        keys, count, [](unsigned) { return 1u; }, [&](unsigned sum) { return sum >= top_k; });
    double sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += kThreads) {
      if (keys[i] >= worst) sum += weights[i];
    }
    whole = sum_block<kThreads>(sum);
  }
  if (parameters.top_p < 1) {
    const double wanted = parameters.top_p * whole;
    const Key last = descend<double>(keys, count, weigh, [&](double sum) { return sum > 0 && sum >= wanted; });
    worst = last > worst ? last : worst;
  }
  const double total = sum_from(worst);
  const double target = uniform * total;
  const auto kept = [&](unsigned i) {
    return keys[i] >= worst && weights[i] >= parameters.min_p ? static_cast<double>(weights[i]) : 0.0;
  };
  return token_of(descend<double>(keys, count, kept, [&](double sum) { return sum > target || sum >= total; }));
}

// The log-softmax of the unmodified logits, of the token and of the most probable ones.
__device__ void rate(const SampleCall& call, const SamplingRow& parameters, unsigned row, const float* logits,
                     unsigned token) {
  const auto vocabulary = static_cast<unsigned>(call.vocabulary);
  Key best = largest_key(logits, vocabulary, ~Key{0});
  const float max_logit = best == 0 ? NAN : logits[token_of(best)];
  double sum = 0;
  for (unsigned i = threadIdx.x; i < vocabulary; i += kThreads) sum += exp_as_glibc(logits[i] - max_logit);
  const double log_sum = max_logit + log(sum_block<kThreads>(sum));
  const auto score = [&](unsigned scored) { return static_cast<float>(logits[scored] - log_sum); };
  if (threadIdx.x == 0) call.logprobs[row] = score(token);
  for (unsigned i = 0; i < parameters.top_logprobs; ++i) {
    if (i > 0 && best != 0) best = largest_key(logits, vocabulary, best);
    const bool is_any = best != 0 && logits[token_of(best)] > -INFINITY;
    if (threadIdx.x != 0) continue;
    call.top_tokens[row * call.most_top_logprobs + i] = is_any ? token_of(best) : kNoToken;
    call.top_logprobs[row * call.most_top_logprobs + i] = is_any ? score(token_of(best)) : -INFINITY;
  }
}

__device__ unsigned draw(const SampleCall& call, const SamplingRow& parameters, const float* row,
                         const RowMemory& memory) {
  const auto vocabulary = static_cast<unsigned>(call.vocabulary);
  const Key best = largest_key(row, vocabulary, ~Key{0});
  if (best == 0) return kNoToken;
  const float max_logit = row[token_of(best)];
  if (!(max_logit > -INFINITY && max_logit < INFINITY)) return kNoToken;
  if (parameters.temperature == 0 || parameters.top_k == 1) return token_of(best);
  const double uniform = philox_uniform(parameters.seed, parameters.position);
  const bool top_k = parameters.top_k > 0 && parameters.top_k < vocabulary;
  double total = 0;
  for (unsigned token = threadIdx.x; token < vocabulary; token += kThreads) {
    const float weight = weight_of(row[token], max_logit, parameters.temperature);
    memory.weights[token] = weight;
    total += weight >= parameters.min_p ? weight : 0.0f;
  }
  total = sum_block<kThreads>(total);  // and waits for the weights
  if (top_k || parameters.top_p < 1) return draw_from_top(row, memory, vocabulary, parameters, uniform);
  return draw_in_order(vocabulary, uniform * total, [&](unsigned token) {
    return memory.weights[token] >= parameters.min_p ? memory.weights[token] : 0.0f;
  });
}

// A block a row.
__global__ void __launch_bounds__(kThreads, 1) sample_rows(SampleCall call) {
  const unsigned row = blockIdx.x;
  const SamplingRow parameters = call.parameters[row];
  const float* logits = call.logits + row * call.row_stride;
  unsigned token = parameters.given;
  if (token == kNoToken) {
    const RowMemory memory = memory_of(call, row);
    token = draw(call, parameters, modified(call, parameters, logits, memory), memory);
  }
  if (threadIdx.x == 0) call.tokens[row] = token;
  if (parameters.logprobs && token != kNoToken) rate(call, parameters, row, logits, token);
}

}  // namespace

void sample(Stream stream, const SampleCall& call) {
  if (call.rows == 0) return;
  launch(stream, {static_cast<unsigned>(call.rows)}, {kThreads}, 0, sample_rows, call);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
