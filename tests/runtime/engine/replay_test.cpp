#include "runtime/engine/replay.h"

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <vector>

#include "runtime/base/philox.h"
#include "runtime/engine/recorded_engine.h"
#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;

namespace {

using Bytes = std::vector<std::byte>;

RecordSink sink_to(Bytes& file) {
  return [&file](kj::Array<capnp::word> entry) {
    const auto bytes = std::as_bytes(std::span(entry.asBytes().begin(), entry.asBytes().size()));
    file.insert(file.end(), bytes.begin(), bytes.end());
  };
}

// Requests, cancels, deadlines, failed steps and epochs in an order that the seed decides.
Bytes record_of(std::uint64_t seed, bool lookahead = false) {
  Bytes file;
  EngineOptions options = tight_options();
  if (lookahead) options.pipeline_stages = 1;
  options.lookahead = lookahead;
  options.max_guesses = lookahead ? 4 : 0;
  options.limits.decode_stall_percent = 100;
  options.limits.queue = 8;
  std::uint64_t epoch = 1, now_ns = 1'000, request = 0;
  RecordedEngine engine(options, sink_to(file), now_ns);
  static_cast<void>(engine.reset_for_epoch(0, epoch, {}));
  FakeShard shard({.num_blocks = options.num_blocks,
                   .block_size = options.block_size,
                   .max_model_len = options.max_model_len,
                   .max_batch_tokens = options.max_batch_tokens,
                   .max_batch_sequences = options.max_batch_sequences,
                   .max_sequences = options.max_batch_sequences * options.pipeline_stages,
                   .vocab_size = kVocab});
  std::deque<std::unique_ptr<capnp::MallocMessageBuilder>> steps;
  for (std::uint64_t turn = 0; turn < 400; ++turn) {
    const auto any = [&](std::uint64_t what) { return philox_uniform(seed, 8 * turn + what); };
    now_ns += static_cast<std::uint64_t>(1e6 * any(0));
    const double event = any(1);
    if (event < 0.3) {
      capnp::MallocMessageBuilder message;
      auto generate = message.initRoot<schema::Generate>();
      write_generate(
          {.owner = 1,
           .request = ++request,
           .prompt = prompt_of(1 + static_cast<std::uint32_t>(20 * any(2)), static_cast<std::uint32_t>(seed)),
           .max_tokens = static_cast<std::uint32_t>(12 * any(3)),
           .priority = static_cast<std::int32_t>(3 * any(4)),
           .tenant = static_cast<std::uint64_t>(2 * any(5)),
           .deadline_ms = any(6) < 0.3 ? 5u : 0u},
          generate);
      static_cast<void>(engine.admit(1, generate.asReader(), now_ns));
    } else if (event < 0.33) {
      engine.cancel(1, 1 + static_cast<std::uint64_t>(static_cast<double>(request) * any(2)));
    } else if (event < 0.6) {
      auto message = std::make_unique<capnp::MallocMessageBuilder>();
      if (engine.form_step(message->initRoot<schema::Step>(), now_ns)) steps.push_back(std::move(message));
    } else if (event < 0.95 && !steps.empty()) {
      capnp::MallocMessageBuilder message;
      auto result = message.initRoot<schema::StepResult>();
      shard.run(steps.front()->getRoot<schema::Step>().asReader(), result);
      if (any(2) < 0.02) result.setFailed(true);
      steps.pop_front();
      static_cast<void>(engine.apply(result.asReader(), now_ns));
      if (result.getFailed()) steps.resize(engine->steps_in_flight());
    } else if (event < 0.97) {
      static_cast<void>(engine.expire(now_ns));
    } else if (event < 0.975) {
      static_cast<void>(engine.fail_waiting(unavailable("away"), now_ns - 1'000'000));
    } else if (event < 0.98) {
      steps.clear();
      shard.sequences.clear();
      static_cast<void>(engine.reset_for_epoch(0, ++epoch, unavailable("a member was lost")));
    }
  }
  engine.cancel_all(1);
  static_cast<void>(engine.fail_all(unavailable("the end")));
  return file;
}

struct Outcome {
  std::uint64_t events = 0, steps = 0, steps_ahead = 0;
  bool same = true;
  std::optional<Error> error;
  std::size_t left_over_bytes = 0;
};

Outcome replay(std::span<const std::byte> file) {
  Outcome outcome;
  auto opened = Replay::open(file);
  if (!opened.ok()) {
    outcome.error = opened.error();
    return outcome;
  }
  while (true) {
    auto event = (*opened)->next();
    if (!event.ok()) {
      outcome.error = event.error();
      return outcome;
    }
    if (!*event) break;
    ++outcome.events;
    outcome.steps += (*event)->is_step ? 1 : 0;
    outcome.same = outcome.same && (*event)->same;
  }
  outcome.steps_ahead = (*opened)->engine().counts().steps_ahead;
  outcome.left_over_bytes = (*opened)->left_over_bytes();
  return outcome;
}

// Where each entry of a record ends.
std::vector<std::size_t> ends_of(const Bytes& file) {
  std::vector<std::size_t> ends;
  std::vector<capnp::word> words(file.size() / sizeof(capnp::word));
  std::memcpy(words.data(), file.data(), file.size());
  kj::ArrayPtr<const capnp::word> rest(words.data(), words.size());
  while (rest.size() > 0) {
    capnp::FlatArrayMessageReader reader(rest);
    rest = kj::arrayPtr(reader.getEnd(), rest.end());
    ends.push_back(file.size() - rest.size() * sizeof(capnp::word));
  }
  return ends;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(replaying)

BOOST_AUTO_TEST_CASE(an_engine_that_is_told_the_same_decides_the_same) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    for (const bool lookahead : {false, true}) {
      const Bytes file = record_of(seed, lookahead);
      const Outcome outcome = replay(file);
      BOOST_TEST(!outcome.error.has_value());
      BOOST_TEST(outcome.same);
      BOOST_TEST(outcome.steps > 10u);
      BOOST_TEST((outcome.steps_ahead > 0u) == lookahead);
      BOOST_TEST(outcome.events + 1 == ends_of(file).size());
      BOOST_TEST(outcome.left_over_bytes == 0u);
    }
  }
}

BOOST_AUTO_TEST_CASE(an_entry_that_was_something_else_then_is_found) {
  const Bytes file = record_of(3);
  const std::vector<std::size_t> ends = ends_of(file);
  // Without its first result, the next step that needs it cannot be the same.
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    std::vector<capnp::word> words((end - begin) / sizeof(capnp::word));
    std::memcpy(words.data(), file.data() + begin, end - begin);
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.data(), words.size()));
    if (reader.getRoot<schema::RecordEntry>().isResult()) {
      Bytes without(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(begin));
      without.insert(without.end(), file.begin() + static_cast<std::ptrdiff_t>(end), file.end());
      BOOST_TEST(!replay(without).same);
      return;
    }
    begin = end;
  }
  BOOST_FAIL("the record has no result");
}

BOOST_AUTO_TEST_CASE(a_record_that_is_cut_off_counts_up_to_its_last_whole_entry) {
  const Bytes file = record_of(5);
  const std::vector<std::size_t> ends = ends_of(file);
  for (std::size_t bytes = 0; bytes < file.size(); bytes += 1 + bytes / 500) {
    const Outcome outcome = replay(std::span(file).first(bytes));
    const auto whole = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), bytes) - ends.begin());
    if (whole == 0) {
      BOOST_TEST(outcome.error.has_value());
      continue;
    }
    BOOST_TEST(!outcome.error.has_value());
    BOOST_TEST(outcome.same);
    BOOST_TEST(outcome.events == whole - 1);
    BOOST_TEST(outcome.left_over_bytes == bytes - ends[whole - 1]);
  }
}

BOOST_AUTO_TEST_CASE(a_hostile_record_is_answered_with_its_offset_or_another_decision) {
  const Bytes file = record_of(7);
  std::size_t refused = 0;
  for (std::uint64_t seed = 0; seed < 3'000; ++seed) {
    Bytes broken = file;
    for (std::uint64_t i = 0; i <= seed % 3; ++i) {
      // Half of them near the beginning, where the lengths are that everything hangs on.
      const double where = philox_uniform(seed, 3 * i) * (seed % 2 == 0 ? 0.02 : 1);
      broken[static_cast<std::size_t>(where * static_cast<double>(file.size()))] =
          static_cast<std::byte>(256 * philox_uniform(seed, 3 * i + 1));
    }
    const Outcome outcome = replay(broken);
    if (!outcome.error) continue;
    ++refused;
    const bool names_it = outcome.error->message.starts_with("byte ") || outcome.error->code == ErrorCode::kUnsupported;
    BOOST_TEST(names_it, outcome.error->message);
  }
  BOOST_TEST(refused > 100u);
  BOOST_TEST(replay(Bytes(64, std::byte{0xff})).error->message.starts_with("byte 0: no record"));
  BOOST_TEST(replay(Bytes(64)).error.has_value());
  BOOST_TEST(replay({}).error.has_value());
}

BOOST_AUTO_TEST_CASE(a_header_with_values_that_no_engine_has_is_refused) {
  const auto refused = [](auto change) {
    Bytes file;
    capnp::MallocMessageBuilder message;
    auto entry = message.initRoot<schema::RecordEntry>();
    auto header = entry.initHeader();
    header.setVersion(1);
    header.setNumBlocks(8);
    header.setBlockSize(4);
    header.setMaxModelLen(32);
    header.setMaxBatchTokens(8);
    header.setMaxBatchSequences(2);
    header.setPipelineStages(1);
    change(header);
    sink_to(file)(capnp::messageToFlatArray(message));
    return replay(file).error.has_value();
  };
  using Header = schema::RecordEntry::Header::Builder;
  BOOST_TEST(!refused([](Header) {}));
  BOOST_TEST(refused([](Header header) { header.setVersion(2); }));
  BOOST_TEST(refused([](Header header) { header.setNumBlocks(0); }));
  BOOST_TEST(refused([](Header header) { header.setNumBlocks(0xffffffff); }));
  BOOST_TEST(refused([](Header header) { header.setBlockSize(257); }));
  BOOST_TEST(refused([](Header header) { header.setMaxBatchTokens(0); }));
  BOOST_TEST(refused([](Header header) { header.setPipelineStages(0); }));
  BOOST_TEST(!refused([](Header header) { header.setLookahead(true); }));
  BOOST_TEST(refused([](Header header) { header.setLookahead(true), header.setPipelineStages(2); }));
  BOOST_TEST(refused([](Header header) { header.initLimits(1)[0].setName("no such limit"); }));
}

BOOST_AUTO_TEST_SUITE_END()
