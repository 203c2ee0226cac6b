// What the scheduler's bookkeeping costs, and what the prefix cache adds to it when no two prompts begin alike: full
// batches, prompts of random tokens, pages that have long been full, so that every block taken is one evicted. The
// engine alone: no model, no messages between actors. With and without the cache take turns, and with lookahead as
// well; medians over the rounds. Prints one JSON object; times are of one step. Without lookahead the device waits for
// with_us between two steps, and for messages; with it only before the steps that were not formed ahead.

#include <capnp/message.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

#include "runtime/base/philox.h"
#include "runtime/engine/engine.h"

using namespace troupe;

namespace {

constexpr std::uint32_t kVocab = 32'000, kPrompt = 512, kAnswer = 128, kSequences = 64;
constexpr std::uint64_t kOwner = 1;

class Load {
 public:
  Load(bool cache, bool lookahead) : engine_(options(cache, lookahead)) {
    static_cast<void>(engine_.reset_for_epoch(0, 1, {}));
  }

  // Seconds in the engine for `steps` steps; making requests and results is not counted.
  double run(int steps) {
    spent_ = {};
    for (int i = 0; i < steps; ++i) step();
    return std::chrono::duration<double>(spent_).count();
  }

  engine::EngineCounts counts() const { return engine_.counts(); }

 private:
  using Clock = std::chrono::steady_clock;

  static engine::EngineOptions options(bool cache, bool lookahead) {
    engine::EngineOptions options{.num_blocks = 16'384,
                                  .block_size = 16,
                                  .max_model_len = 4'096,
                                  .max_batch_tokens = 512,
                                  .max_batch_sequences = kSequences,
                                  .lookahead = lookahead};
    if (!cache) options.limits.prefix_cache_blocks = 0;
    return options;
  }

  template <class Work>
  auto timed(Work&& work) {
    const Clock::time_point start = Clock::now();
    auto result = work();
    spent_ += Clock::now() - start;
    return result;
  }

  void admit() {
    capnp::MallocMessageBuilder message;
    auto generate = message.initRoot<schema::Generate>();
    generate.setRequest(++request_);
    auto tokens = generate.initTokens(kPrompt);
    for (std::uint32_t i = 0; i < kPrompt; ++i) {
      tokens.set(i, static_cast<std::uint32_t>(philox_uniform(request_, i) * kVocab));
    }
    generate.setMaxTokens(kAnswer);
    generate.initSampling();
    if (!timed([&] { return engine_.admit(kOwner, generate.asReader(), 0); }).ok()) std::abort();
  }

  void step() {
    const engine::EngineCounts counts = engine_.counts();
    for (std::uint64_t known = counts.running + counts.waiting; known < kSequences + 8; ++known) admit();
    while (form()) {
    }
    if (results_.empty()) std::abort();
    const auto result = results_.front()->getRoot<schema::StepResult>().asReader();
    timed([&] { return engine_.apply(result, 0); });
    results_.pop_front();
  }

  // A step, if there is one, and its result.
  bool form() {
    capnp::MallocMessageBuilder message;
    auto step = message.initRoot<schema::Step>();
    if (!timed([&] { return engine_.form_step(step, 0); })) return false;
    auto result =
        results_.emplace_back(std::make_unique<capnp::MallocMessageBuilder>())->initRoot<schema::StepResult>();
    result.setFence(step.getFence().asReader());
    const auto samples = step.getSample().asReader();
    const auto sampled = static_cast<unsigned>(std::count(samples.begin(), samples.end(), true));
    auto sequences = result.initSequences(sampled);
    auto tokens = result.initTokens(sampled);
    result.initLogprobs(sampled);
    for (unsigned i = 0, next = 0; i < samples.size(); ++i) {
      if (!samples[i]) continue;
      sequences.set(next, step.getSequences()[i]);
      tokens.set(next++, static_cast<std::uint32_t>(philox_uniform(step.getFence().getStep(), i) * kVocab));
    }
    return true;
  }

  engine::Engine engine_;
  std::deque<std::unique_ptr<capnp::MallocMessageBuilder>> results_;  // of steps in flight, oldest first
  std::uint64_t request_ = 0;
  Clock::duration spent_{};
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  constexpr int kSteps = 2'000, kWarmUp = 4'000;
  if (rounds < 1) return fmt::print(stderr, "usage: {} [ROUNDS]\n", argv[0]), 2;
  Load without(false, false), with(true, false), ahead(true, true);
  for (Load* const load : {&without, &with, &ahead}) load->run(kWarmUp);
  std::vector<double> without_us, with_us, added_us, ahead_us;
  for (int round = 0; round < rounds; ++round) {
    without_us.push_back(without.run(kSteps) / kSteps * 1e6);
    with_us.push_back(with.run(kSteps) / kSteps * 1e6);
    added_us.push_back(with_us.back() - without_us.back());
    ahead_us.push_back(ahead.run(kSteps) / kSteps * 1e6);
  }
  const engine::EngineCounts counts = with.counts();
  const engine::EngineCounts counts_ahead = ahead.counts();
  fmt::print(R"({{"without_us": {:.2f}, "with_us": {:.2f}, "added_us": {:.2f}, "hits": {}, "queries": {}, )"
             R"("lookahead_us": {:.2f}, "formed_ahead": {:.3f}}})"
             "\n",
             median(without_us), median(with_us), median(added_us), counts.prefix_hits, counts.prefix_queries,
             median(ahead_us), static_cast<double>(counts_ahead.steps_ahead) / static_cast<double>(counts_ahead.steps));
}
