#include "cluster/bench/workload.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace troupe::cluster {
namespace {

using Purpose = RandomStream::Purpose;

constexpr std::uint32_t kWarmupTokens = 8;  // of an answer

std::uint32_t scaled(std::uint32_t tokens, double factor) {
  return static_cast<std::uint32_t>(std::clamp(std::round(tokens * factor), 1.0, double{kMaxLengthTokens}));
}

}  // namespace

Workload::Workload(WorkloadOptions options, std::shared_ptr<const Trace> trace)
    : options_(std::move(options)), trace_(std::move(trace)) {
  RandomStream random(options_.seed, Purpose::kSharedPrefix);
  shared_prefix_.reserve(options_.shared_prefix);
  for (std::uint32_t i = 0; i < options_.shared_prefix; ++i) shared_prefix_.push_back(token(random));
}

PlannedRequest Workload::request(std::uint64_t index) const {
  PlannedRequest request = plan(index, RandomStream(options_.seed, Purpose::kRequest, index));
  if (trace_ == nullptr || !trace_->has_blocks()) return request;
  const auto shared = blocks(index);
  if (shared.empty()) return request;  // a prompt of no tokens in the trace: one of its own
  const std::size_t length = request.prompt.size();
  request.prompt.clear();
  for (const std::uint64_t block : shared) {
    RandomStream random(options_.seed, Purpose::kTraceBlock, block);
    for (std::uint32_t i = 0; i < options_.block_tokens && request.prompt.size() < length; ++i) {
      request.prompt.push_back(token(random));
    }
  }
  return request;
}

PlannedRequest Workload::warmup(std::uint64_t index) const {
  PlannedRequest request = plan(index, RandomStream(options_.seed, Purpose::kWarmup, index));
  request.max_tokens = std::min(request.max_tokens, kWarmupTokens);
  return request;
}

std::span<const std::uint64_t> Workload::blocks(std::uint64_t index) const {
  RandomStream random(options_.seed, Purpose::kRequest, index);
  const std::uint32_t length = lengths(index, random).prompt;
  const auto blocks = trace_->blocks_of(trace_->requests[index % trace_->requests.size()]);
  return blocks.first(
      std::min<std::size_t>(blocks.size(), (length + options_.block_tokens - 1) / options_.block_tokens));
}

Workload::Lengths Workload::lengths(std::uint64_t index, RandomStream& random) const {
  Lengths wanted{};
  if (trace_ != nullptr) {
    const TraceRequest& request = trace_->requests[index % trace_->requests.size()];
    const double shrunk = trace_->has_blocks() ? double(options_.block_tokens) / kTraceBlockTokens : 1;
    wanted.prompt = scaled(request.prompt_tokens, options_.prompt_scale * shrunk);
    wanted.output = scaled(request.output_tokens, options_.output_scale);
    // Rounding must not ask for more tokens than the blocks have.
    if (trace_->has_blocks() && request.num_blocks > 0) {
      wanted.prompt = std::min<std::uint32_t>(wanted.prompt, request.num_blocks * options_.block_tokens);
    }
  } else {
    wanted.prompt = options_.prompt_tokens.sample(random);
    wanted.output = options_.max_tokens.sample(random);
  }
  if (options_.max_model_len == 0) return wanted;
  const std::uint32_t output = std::min(wanted.output, options_.max_model_len - 1);
  const std::uint32_t prompt = std::min(wanted.prompt, options_.max_model_len - output);
  return {prompt, output, prompt != wanted.prompt || output != wanted.output};
}

PlannedRequest Workload::plan(std::uint64_t index, RandomStream random) const {
  const Lengths length = lengths(index, random);
  PlannedRequest request{.max_tokens = length.output, .clipped = length.clipped};
  request.seed = random.next();
  request.prompt.reserve(length.prompt);
  const std::size_t shared = std::min<std::size_t>(length.prompt, shared_prefix_.size());
  request.prompt.assign(shared_prefix_.begin(), shared_prefix_.begin() + static_cast<std::ptrdiff_t>(shared));
  while (request.prompt.size() < length.prompt) request.prompt.push_back(token(random));
  return request;
}

std::uint32_t Workload::token(RandomStream& random) const {
  const std::uint32_t edge = options_.vocab_size / 10;
  return edge + random.below(options_.vocab_size - 2 * edge);
}

}  // namespace troupe::cluster
