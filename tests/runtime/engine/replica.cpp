#include "tests/runtime/engine/replica.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "runtime/base/philox.h"
#include "runtime/engine/error_info.h"

namespace troupe::engine::testing {

std::vector<float> fake_logits(std::span<const std::uint32_t> history, std::uint32_t vocab_size) {
  std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
  for (const std::uint32_t token : history) hash = (hash ^ token) * 1099511628211ULL;
  std::vector<float> logits(vocab_size);
  for (std::uint32_t token = 0; token < vocab_size; ++token) {
    const double of_all = philox_uniform(hash, token), of_last = philox_uniform(history.back(), token);
    logits[token] = static_cast<float>(of_all * 0.2 + of_last * 8 - 4);
  }
  return logits;
}

std::vector<std::uint32_t> expected_tokens(std::vector<std::uint32_t> prompt, std::uint32_t max_tokens,
                                           const SamplingParameters& parameters, std::uint32_t vocab_size) {
  Sampler sampler;
  const auto prompt_length = static_cast<std::uint32_t>(prompt.size());
  std::vector<std::uint32_t>& history = prompt;
  while (history.size() - prompt_length < max_tokens) {
    const std::uint32_t token =
        sampler.sample(fake_logits(history, vocab_size), history, prompt_length, parameters).value();
    history.push_back(token);
    const auto& stops = parameters.stop_tokens;
    if (history.size() - prompt_length > parameters.min_tokens &&
        std::find(stops.begin(), stops.end(), token) != stops.end()) {
      break;
    }
  }
  return {history.begin() + prompt_length, history.end()};
}

FakeShard::FakeShard(const ShardSequencesOptions& options)
    : sequences(options, Limits{}),
      options_(options),
      pages_(std::size_t{options.num_blocks + options.num_swap_blocks} * options.block_size) {}

void FakeShard::launch(schema::Step::Reader step) {
  Launched launched{.step = std::make_unique<capnp::MallocMessageBuilder>(), .flat = {}, .begun = {}};
  launched.step->setRoot(step);
  launched.begun = sequences.begin_step(step);
  if (launched.begun.ok()) launched.flat = sequences.flat();
  launched_.push_back(std::move(launched));
}

FlatStep FakeShard::collect(schema::StepResult::Builder result) {
  const Launched launched = std::move(launched_.front());
  launched_.pop_front();
  result.setFence(launched.step->getRoot<schema::Step>().getFence().asReader());
  Result<void> done = launched.begun.ok() ? compute(launched, result) : launched.begun;
  if (!done.ok()) {
    result.setFailed(true);
    write_error(done.error(), result.initError());
  }
  return launched.flat;
}

Result<void> FakeShard::compute(const Launched& launched, schema::StepResult::Builder result) {
  const FlatStep& flat = launched.flat;
  const auto step = launched.step->getRoot<schema::Step>().asReader();
  for (const BlockCopy& copy : flat.copies) {
    const auto from = pages_.begin() + std::ptrdiff_t{copy.from} * options_.block_size;
    std::copy_n(from, options_.block_size, pages_.begin() + std::ptrdiff_t{copy.to} * options_.block_size);
  }
  result.initTimings(1)[0].setCopyNs(copy_ns * flat.copies.size());
  for (std::size_t row = 0; row < flat.tokens.size(); ++row) {
    const bool known = flat.token_sources.empty() || flat.token_sources[row] == FlatStep::kKnown;
    pages_.at(flat.slots[row]) = known ? flat.tokens[row] : drawn_.at(flat.token_sources[row]);
  }
  std::vector<std::uint64_t> sequence_of;  // (logits rows)
  for (std::size_t i = 0; i < flat.logits_rows.size(); ++i) {
    const std::uint32_t row = flat.logits_rows[i];
    unsigned index = 0;
    while (flat.row_starts[index + 1] <= row) ++index;
    sequence_of.push_back(step.getSequences()[index]);
    std::vector<std::uint32_t> history;
    for (std::uint32_t position = 0; position <= flat.positions[row]; ++position) {
      const std::uint32_t block = flat.block_tables.at(flat.block_table_starts[index] + position / options_.block_size);
      history.push_back(pages_.at(block * options_.block_size + position % options_.block_size));
    }
    TROUPE_RETURN_IF_ERROR(sequences.sample(step.getFence().getStep(), i, fake_logits(history, options_.vocab_size)));
  }
  TROUPE_RETURN_IF_ERROR(sequences.write_result(step.getFence().getStep(), result));
  drawn_.assign(sequence_of.size(), schema::SAMPLED_TOKEN);
  const auto reader = result.asReader();
  const auto tokens = reader.getTokens(), counts = reader.getTokenCounts();
  unsigned first = 0;
  for (unsigned i = 0; i < reader.getSequences().size(); ++i) {
    for (std::size_t row = 0; row < sequence_of.size(); ++row) {
      if (sequence_of[row] == reader.getSequences()[i]) drawn_[row] = tokens[first];
    }
    first += counts.size() == 0 ? 1 : counts[i];
  }
  return {};
}

void FakeShard::run(schema::Step::Reader step, schema::StepResult::Builder result) {
  launch(step);
  static_cast<void>(collect(result));
}

void write_generate(const Request& request, schema::Generate::Builder to) {
  to.setRequest(request.request);
  auto tokens = to.initTokens(static_cast<unsigned>(request.prompt.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, request.prompt[i]);
  to.setMaxTokens(request.max_tokens);
  auto stops = to.initStopTokens(static_cast<unsigned>(request.sampling.stop_tokens.size()));
  for (unsigned i = 0; i < stops.size(); ++i) stops.set(i, request.sampling.stop_tokens[i]);
  to.setMinTokens(request.sampling.min_tokens);
  write_sampling(request.sampling, to.initSampling());
  to.setCacheSalt(request.cache_salt);
  to.setPriority(request.priority);
  to.setTenant(request.tenant);
  to.setDeadlineMs(request.deadline_ms);
  to.setSiblings(request.siblings);
  to.setSiblingTokens(request.sibling_tokens);
  to.setNoSpeculation(!request.speculates);
}

Replica::Replica(const EngineOptions& options)
    : engine(options),
      shard({.num_blocks = options.num_blocks,
             .num_swap_blocks = options.num_swap_blocks,
             .block_size = options.block_size,
             .max_model_len = options.max_model_len,
             .max_batch_tokens = options.max_batch_tokens,
             .max_batch_sequences = options.max_batch_sequences,
             .max_sequences = options.max_batch_sequences * options.pipeline_stages,
             .vocab_size = kVocab}) {
  static_cast<void>(engine.reset_for_epoch(0, 1, {}));
}

Result<void> Replica::admit(const Request& request) {
  capnp::MallocMessageBuilder message;
  auto generate = message.initRoot<schema::Generate>();
  write_generate(request, generate);
  return engine.admit(request.owner, generate.asReader(), now_ns++);
}

bool Replica::form_step() {
  auto message = std::make_unique<capnp::MallocMessageBuilder>();
  if (!engine.form_step(message->initRoot<schema::Step>(), now_ns++)) return false;
  steps_.push_back(std::move(message));
  return true;
}

void Replica::run_oldest_step() {
  const std::size_t at_once = std::min(steps_.size(), overlaps ? kMostStepsInFlight : 1);
  while (shard.launched() < at_once) shard.launch(steps_[shard.launched()]->getRoot<schema::Step>().asReader());
  capnp::MallocMessageBuilder message;
  auto result = message.initRoot<schema::StepResult>();
  const FlatStep flat = shard.collect(result);
  if (result.getFailed()) throw std::runtime_error(result.getError().getMessage().cStr());
  if (on_step) on_step(steps_.front()->getRoot<schema::Step>().asReader(), flat);
  steps_.pop_front();
  take(engine.apply(result.asReader(), now_ns++));
}

void Replica::fail_oldest_step(const Error& error) {
  capnp::MallocMessageBuilder message;
  auto result = message.initRoot<schema::StepResult>();
  result.setFence(steps_.front()->getRoot<schema::Step>().getFence().asReader());
  result.setFailed(true);
  write_error(error, result.initError());
  if (shard.launched() > 0) shard.forget_oldest();
  steps_.pop_front();
  take(engine.apply(result.asReader(), now_ns++));
  // With it the one that went on from what it was to draw.
  steps_.resize(engine.steps_in_flight());
  if (shard.launched() > steps_.size()) shard.forget_launched(steps_.size());
}

void Replica::run_until_idle() {
  while (true) {
    while (form_step()) {
    }
    if (steps_.empty()) return;
    run_oldest_step();
  }
}

void Replica::begin_epoch(std::uint64_t epoch) {
  steps_.clear();
  shard.forget_launched(0);
  shard.sequences.clear();
  take(engine.reset_for_epoch(0, epoch, unavailable("a member was lost")));
}

void Replica::take(const std::vector<Delta>& deltas) {
  for (const Delta& delta : deltas) {
    Answer& to = answers[{delta.owner, delta.request}];
    if (to.finish != schema::FinishReason::NONE) throw std::runtime_error("a delta after the last one");
    if (!delta.prompt_logprobs.empty() && to.deltas > 0) throw std::runtime_error("prompt_logprobs come too late");
    to.tokens.insert(to.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    to.logprobs.insert(to.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    to.prompt_logprobs.insert(to.prompt_logprobs.end(), delta.prompt_logprobs.begin(), delta.prompt_logprobs.end());
    to.finish = delta.finish;
    to.error = delta.error;
    to.queue_ns += delta.queue_ns;
    to.cached_tokens += delta.cached_tokens;
    ++to.deltas;
  }
}

EngineOptions tight_options() {
  return {.num_blocks = 12,
          .block_size = 4,
          .max_model_len = 40,
          .max_batch_tokens = 10,
          .max_batch_sequences = 4,
          .pipeline_stages = 2,
          .limits = {.decode_stall_percent = 0}};
}

EngineOptions roomy_options(std::uint32_t num_blocks) {
  return {.num_blocks = num_blocks,
          .block_size = 4,
          .max_model_len = 64,
          .max_batch_tokens = 64,
          .max_batch_sequences = 8,
          .pipeline_stages = 1,
          .limits = {.decode_stall_percent = 0}};
}

std::vector<std::uint32_t> prompt_of(std::uint32_t length, std::uint32_t salt) {
  std::vector<std::uint32_t> prompt;
  for (std::uint32_t i = 0; i < length; ++i) prompt.push_back((7 * i + 3 * salt + 1) % kVocab);
  return prompt;
}

}  // namespace troupe::engine::testing
