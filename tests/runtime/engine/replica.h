#pragma once

#include <capnp/message.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/engine/shard_sequences.h"

namespace troupe::engine::testing {

// Logits that depend on every token before, mostly on the last one, and on nothing else: text comes that repeats
// itself, but never for long.
std::vector<float> fake_logits(std::span<const std::uint32_t> history, std::uint32_t vocab_size);

// What a request must give, worked out without engine, blocks or batches.
std::vector<std::uint32_t> expected_tokens(std::vector<std::uint32_t> prompt, std::uint32_t max_tokens,
                                           const SamplingParameters& parameters, std::uint32_t vocab_size);

// A last-stage shard whose pages hold tokens instead of keys and values, and whose model reads its context from
// them through slots and block tables: a wrong table gives wrong tokens.
class FakeShard {
 public:
  explicit FakeShard(const ShardSequencesOptions& options);

  // Begins a step. It is computed by collect(), as by a device that works by itself: another one may be launched
  // before.
  void launch(schema::Step::Reader step);
  // Computes the oldest step that was launched. Fills `result`, as a failure if the step was refused.
  FlatStep collect(schema::StepResult::Builder result);
  // Both.
  void run(schema::Step::Reader step, schema::StepResult::Builder result);
  std::size_t launched() const { return launched_.size(); }
  // Those from place `first` on, the oldest being 0, are never computed.
  void forget_launched(std::size_t first) {
    launched_.erase(launched_.begin() + std::ptrdiff_t(first), launched_.end());
  }
  void forget_oldest() { launched_.pop_front(); }

  // What block `block` holds: (block_size).
  std::span<const std::uint32_t> page(std::uint32_t block) const {
    return std::span(pages_).subspan(std::size_t{block} * options_.block_size, options_.block_size);
  }

  ShardSequences sequences;
  std::uint64_t copy_ns = 0;  // that it says it needs for a block

 private:
  struct Launched {
    std::unique_ptr<capnp::MallocMessageBuilder> step;
    FlatStep flat;
    Result<void> begun;
  };

  Result<void> compute(const Launched& launched, schema::StepResult::Builder result);

  const ShardSequencesOptions options_;
  std::vector<std::uint32_t> pages_;  // (num_blocks + num_swap_blocks, block_size)
  std::vector<std::uint32_t> drawn_;  // (logits rows of the step computed last): the token of its sequence
  std::deque<Launched> launched_;     // oldest first
};

struct Request {
  std::uint64_t owner = 1;
  std::uint64_t request = 0;
  std::vector<std::uint32_t> prompt;
  std::uint32_t max_tokens = 8;
  SamplingParameters sampling;
  std::string cache_salt;
  std::int32_t priority = 0;
  std::uint64_t tenant = 0;
  std::uint32_t deadline_ms = 0;
  std::uint32_t siblings = 0;
  std::uint64_t sibling_tokens = 0;
  bool speculates = true;
};

void write_generate(const Request& request, schema::Generate::Builder to);

// What an owner has received for one request.
struct Answer {
  std::vector<std::uint32_t> tokens;
  std::vector<RatedToken> logprobs;
  std::vector<RatedToken> prompt_logprobs;
  schema::FinishReason finish = schema::FinishReason::NONE;
  std::optional<Error> error;
  std::size_t deltas = 0;
  std::uint64_t queue_ns = 0;
  std::uint32_t cached_tokens = 0;
};

// An engine and its shard, joined by a queue of steps.
class Replica {
 public:
  explicit Replica(const EngineOptions& options);

  Result<void> admit(const Request& request);
  bool form_step();        // false when there is none
  void run_oldest_step();  // through the shard and back. REQUIRES: one is in flight
  // Comes back as a failure without having been computed.
  void fail_oldest_step(const Error& error = corrupt_data("the step is not what it says"));
  void lose_oldest_step() { fail_oldest_step(unavailable("the shard is gone")); }
  void run_until_idle();
  void begin_epoch(std::uint64_t epoch);
  void expire() { take(engine.expire(now_ns)); }
  // Every answer gets the tokens that it is due; throws on a delta that breaks the protocol.
  void take(const std::vector<Delta>& deltas);

  schema::Step::Reader oldest_step() const { return steps_.front()->getRoot<schema::Step>().asReader(); }
  schema::Step::Reader newest_step() const { return steps_.back()->getRoot<schema::Step>().asReader(); }
  Answer& answer(std::uint64_t request, std::uint64_t owner = 1) { return answers[{owner, request}]; }

  Engine engine;
  FakeShard shard;
  bool overlaps = false;  // the shard begins a step, if it has one, before it computes the one before
  std::function<void(schema::Step::Reader, const FlatStep&)> on_step;  // after the shard's work, before its result
  std::map<std::pair<std::uint64_t, std::uint64_t>, Answer> answers;
  std::uint64_t now_ns = 1'000;

 private:
  std::deque<std::unique_ptr<capnp::MallocMessageBuilder>> steps_;
};

// Small numbers that make every shortage happen. The clock of tests tells nothing of a step's time: prompts are not
// held back for decodes, here and below.
EngineOptions tight_options();

inline constexpr std::uint32_t kVocab = 48;

// Blocks of 4 tokens, sequences of at most 64, 8 of them at a time.
EngineOptions roomy_options(std::uint32_t num_blocks = 64);

// Prompts of different salts begin differently.
std::vector<std::uint32_t> prompt_of(std::uint32_t length, std::uint32_t salt = 0);

}  // namespace troupe::engine::testing
