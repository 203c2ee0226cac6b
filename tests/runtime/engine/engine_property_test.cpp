#include <rapidcheck.h>

#include <boost/test/unit_test.hpp>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

namespace {

enum class Event { kAdmit, kAdmitGroup, kCancel, kForm, kRun, kFail, kLose, kEpoch, kPass, kExpire };

EngineOptions any_options() {
  EngineOptions options;
  options.num_blocks = *rc::gen::inRange(3u, 14u);
  options.num_swap_blocks = *rc::gen::element(0u, 2u, 7u, 30u);
  options.block_size = *rc::gen::inRange(1u, 6u);
  options.max_model_len = *rc::gen::inRange(4u, 48u);
  options.max_batch_tokens = *rc::gen::inRange(1u, 16u);
  options.max_batch_sequences = *rc::gen::inRange(1u, 6u);
  options.pipeline_stages = *rc::gen::inRange(1u, 4u);
  options.max_guesses = *rc::gen::element(0u, 1u, 4u, 8u);
  options.limits.queue = 12;
  options.limits.prefix_cache_blocks = *rc::gen::element(0u, 3u, 1'000u);
  options.limits.decode_stall_percent = *rc::gen::element(0u, 10u, 100u);
  options.limits.target_ttft_ms = *rc::gen::element(0u, 1u, 20u);
  options.limits.idle_tenants = *rc::gen::element(0u, 1u, 100u);
  return options;
}

Request any_request(std::uint64_t number) {
  Request request{.request = number, .max_tokens = *rc::gen::inRange(0u, 30u)};
  // A beginning that others have as well, then something of its own.
  const std::uint32_t shared = *rc::gen::inRange(0u, 16u), family = *rc::gen::inRange(0u, 2u);
  for (std::uint32_t i = 0; i < shared; ++i) request.prompt.push_back((5 * i + family) % kVocab);
  const auto own = *rc::gen::container<std::vector<std::uint32_t>>(*rc::gen::inRange<std::size_t>(1, 9),
                                                                   rc::gen::inRange(0u, kVocab));
  request.prompt.insert(request.prompt.end(), own.begin(), own.end());
  request.cache_salt = *rc::gen::element("", "", "tenant");
  request.sampling.temperature = *rc::gen::element(0.0F, 0.7F, 1.3F);
  request.sampling.top_k = *rc::gen::element(0u, 1u, 5u);
  request.sampling.top_p = *rc::gen::element(1.0F, 0.8F);
  request.sampling.repetition_penalty = *rc::gen::element(1.0F, 1.5F);
  request.sampling.seed = number;
  request.sampling.logprobs = *rc::gen::arbitrary<bool>();
  request.sampling.prompt_logprobs = *rc::gen::arbitrary<bool>();
  request.sampling.stop_tokens = *rc::gen::element(std::vector<std::uint32_t>{}, std::vector<std::uint32_t>{3, 9, 27});
  request.sampling.min_tokens = *rc::gen::inRange(0u, request.max_tokens + 1);
  request.priority = *rc::gen::element(0, 0, 0, -1, 5);
  request.tenant = *rc::gen::inRange<std::uint64_t>(0, 3);
  request.deadline_ms = *rc::gen::element(0u, 0u, 1u, 4u, 30u);
  return request;
}

// Every block is free or held by as many sequences as its references say, once by each; more than one of them only
// if it is published.
void check_blocks(const Engine& engine) {
  const BlockManager& blocks = engine.blocks();
  std::map<std::uint32_t, std::uint32_t> holders;
  for (SequenceId id = 1; id <= engine.newest_sequence(); ++id) {
    const auto table = blocks.table(id);
    for (const std::uint32_t block : table) ++holders[block];
    RC_ASSERT((std::set<std::uint32_t>(table.begin(), table.end()).size() == table.size()));
  }
  for (std::uint32_t block = 0; block < blocks.num_blocks(); ++block) {
    const auto found = holders.find(block);
    const std::uint32_t expected = found == holders.end() ? 0 : found->second;
    RC_ASSERT(blocks.references(block) == expected);
    RC_ASSERT(expected <= 1 || blocks.cache().node_of(block) != PrefixCache::kNone);
  }
  RC_ASSERT(holders.size() + blocks.free_blocks() == blocks.num_blocks());
}

// What can be found in the prefix cache is in the pages, and was put there for the same salt.
void check_cache(const Replica& replica, const std::vector<Request>& admitted) {
  const BlockManager& blocks = replica.engine.blocks();
  const PrefixCache& cache = blocks.cache();
  std::uint32_t size = 0, idle = 0;
  for (std::uint32_t block = 0; block < blocks.num_blocks(); ++block) {
    const PrefixCache::Node node = cache.node_of(block);
    if (node == PrefixCache::kNone) continue;
    ++size;
    idle += cache.idle(node) ? 1 : 0;
    RC_ASSERT(cache.idle(node) == (blocks.references(block) == 0));
    const auto page = replica.shard.page(block), tokens = cache.tokens(node);
    RC_ASSERT(std::equal(page.begin(), page.end(), tokens.begin(), tokens.end()));
    const PrefixCache::Node parent = cache.parent(node);
    if (parent == PrefixCache::kNone) continue;
    RC_ASSERT(cache.node_of(cache.block(parent)) == parent);
    RC_ASSERT(cache.idle(node) || !cache.idle(parent));
  }
  RC_ASSERT(size == cache.size());
  RC_ASSERT(idle == cache.idle_nodes());
  for (SequenceId id = 1; id <= replica.engine.newest_sequence(); ++id) {
    if (blocks.published(id) == 0) continue;
    const std::string_view salt = cache.salt(cache.node_of(blocks.table(id)[0]));
    RC_ASSERT(salt == admitted[id - 1].cache_salt);
  }
}

// The shard's tables, replayed from the deltas of steps, are the manager's.
void check_tables(const Replica& replica, schema::Step::Reader step, const FlatStep& flat) {
  for (unsigned i = 0; i < step.getSequences().size(); ++i) {
    const auto managed = replica.engine.blocks().table(step.getSequences()[i]);
    const auto first = flat.block_tables.begin() + flat.block_table_starts[i];
    const auto last = flat.block_tables.begin() + flat.block_table_starts[i + 1];
    RC_ASSERT(static_cast<std::size_t>(last - first) <= managed.size());
    RC_ASSERT(std::equal(first, last, managed.begin()));
  }
}

// A step keeps its budgets, and whoever begins in it has nobody before it of the same priority and tenant.
void check_step(Replica& replica, const EngineOptions& options, const std::vector<Request>& admitted,
                const std::set<std::uint64_t>& cancelled, std::set<std::uint64_t>& begun) {
  const schema::Step::Reader step = replica.newest_step();
  std::uint64_t tokens = 0;
  for (const std::uint32_t count : step.getTokenCounts()) tokens += count;
  RC_ASSERT(tokens <= options.max_batch_tokens);
  RC_ASSERT(step.getSequences().size() <= options.max_batch_sequences);
  for (const auto start : step.getStarts()) begun.insert(admitted[start.getSequence() - 1].request);
  for (const auto start : step.getStarts()) {
    const Request& request = admitted[start.getSequence() - 1];
    for (const Request& earlier : std::span(admitted).first(start.getSequence() - 1)) {
      const bool waits = !begun.contains(earlier.request) && !cancelled.contains(earlier.request) &&
                         replica.answer(earlier.request).finish == FinishReason::NONE;
      RC_ASSERT(!waits || earlier.priority != request.priority || earlier.tenant != request.tenant);
    }
  }
}

// One request, or several choices that must be taken or refused together. A choice that is wrong ends them, as the
// gateway would.
void admit_some(Replica& replica, std::uint32_t choices, const EngineOptions& options, std::vector<Request>& admitted,
                std::uint64_t& next_request) {
  std::vector<Request> group;
  for (std::uint32_t i = 0; i < choices; ++i) group.push_back(any_request(next_request++));
  std::size_t taken = 0, full = 0;
  for (std::uint32_t i = 0; i < choices; ++i) {
    group[i].siblings = choices - 1 - i;
    for (const Request& sibling : std::span(group).subspan(i + 1)) group[i].sibling_tokens += sibling.prompt.size();
    const Result<void> result = replica.admit(group[i]);
    if (!result.ok() && result.error().code != ErrorCode::kResourceExhausted) return;
    if (!result.ok()) {
      ++full;
      continue;
    }
    admitted.push_back(group[i]);
    ++taken;
    RC_ASSERT(replica.engine.counts().waiting <= options.limits.queue);
  }
  RC_ASSERT(full == 0 || taken == 0);
}

// Events in any order, then everything that is left to do: no block leaks, and every request ends with the tokens that
// it is due.
void check_any_history(const EngineOptions& options) {
  Replica replica(options);
  replica.on_step = [&](schema::Step::Reader step, const FlatStep& flat) { check_tables(replica, step, flat); };
  replica.shard.copy_ns = *rc::gen::element(0u, 1u, 1'000u);
  replica.overlaps = *rc::gen::arbitrary<bool>();
  std::vector<Request> admitted;
  std::set<std::uint64_t> cancelled;
  std::uint64_t epoch = 1, next_request = 0;
  const auto events = *rc::gen::container<std::vector<Event>>(rc::gen::weightedElement<Event>({{8, Event::kAdmit},
                                                                                               {2, Event::kAdmitGroup},
                                                                                               {2, Event::kCancel},
                                                                                               {16, Event::kForm},
                                                                                               {12, Event::kRun},
                                                                                               {1, Event::kFail},
                                                                                               {1, Event::kLose},
                                                                                               {1, Event::kEpoch},
                                                                                               {3, Event::kPass},
                                                                                               {2, Event::kExpire}}));
  std::set<std::uint64_t> begun;
  for (const Event event : events) {
    switch (event) {
      case Event::kAdmit: admit_some(replica, 1, options, admitted, next_request); break;
      case Event::kAdmitGroup: admit_some(replica, *rc::gen::inRange(2u, 5u), options, admitted, next_request); break;
      case Event::kCancel: {
        if (admitted.empty()) break;
        const std::uint64_t request = admitted[*rc::gen::inRange<std::size_t>(0, admitted.size())].request;
        if (replica.answer(request).finish == FinishReason::NONE) cancelled.insert(request);
        replica.engine.cancel(1, request);
        break;
      }
      case Event::kForm:
        if (replica.form_step()) check_step(replica, options, admitted, cancelled, begun);
        break;
      case Event::kRun:
        if (replica.engine.steps_in_flight() > 0) replica.run_oldest_step();
        break;
      case Event::kFail:
        if (replica.engine.steps_in_flight() > 0) replica.fail_oldest_step();
        break;
      case Event::kLose:
        if (replica.engine.steps_in_flight() > 0) replica.lose_oldest_step();
        break;
      case Event::kEpoch: replica.begin_epoch(++epoch); break;
      case Event::kPass: replica.now_ns += *rc::gen::inRange<std::uint64_t>(1, 3'000'000); break;
      case Event::kExpire:
        replica.expire();
        RC_ASSERT(replica.engine.next_expiry_ns().value_or(replica.now_ns + 1) > replica.now_ns);
        break;
    }
    check_blocks(replica.engine);
    check_cache(replica, admitted);
    RC_ASSERT(replica.engine.blocks().cache().idle_nodes() <= options.limits.prefix_cache_blocks);
    if (event == Event::kEpoch) RC_ASSERT(replica.engine.blocks().cache().size() == 0u);
    RC_ASSERT(replica.engine.steps_in_flight() <= options.pipeline_stages + (options.lookahead ? 1 : 0));
  }
  replica.run_until_idle();

  RC_CLASSIFY(replica.engine.counts().swaps_in > 0, "goes on with what was kept beside the pages");
  RC_CLASSIFY(replica.engine.counts().steps_ahead > 0, "goes on before tokens are known");
  RC_ASSERT(replica.engine.idle());
  RC_ASSERT(!replica.engine.next_expiry_ns());
  RC_ASSERT(replica.engine.blocks().free_blocks() == options.num_blocks);
  RC_ASSERT(replica.engine.swap_space().free_blocks() == options.num_swap_blocks);
  for (const Request& request : admitted) {
    const Answer& answer = replica.answer(request.request);
    const std::uint64_t room = std::min<std::uint64_t>(options.max_model_len, options.num_blocks * options.block_size);
    const auto length =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(request.max_tokens, room - request.prompt.size()));
    const std::vector<std::uint32_t> due = expected_tokens(request.prompt, length, request.sampling, kVocab);
    if (cancelled.contains(request.request)) {
      RC_ASSERT(answer.finish == FinishReason::NONE);
    } else {
      RC_ASSERT(answer.finish != FinishReason::NONE);
    }
    if (answer.error && answer.error->code == ErrorCode::kDeadlineExceeded) RC_ASSERT(request.deadline_ms > 0u);
    // However it ended, what was told is the beginning of what is due.
    RC_ASSERT(answer.tokens.size() <= due.size());
    RC_ASSERT(std::equal(answer.tokens.begin(), answer.tokens.end(), due.begin()));
    if (answer.finish != FinishReason::LENGTH && answer.finish != FinishReason::STOP) continue;
    RC_ASSERT(answer.tokens == due);
    RC_ASSERT(answer.cached_tokens < request.prompt.size());
    if (request.sampling.prompt_logprobs) RC_ASSERT(answer.cached_tokens == 0u || request.prompt.size() == 1);
    RC_ASSERT(answer.logprobs.size() == (request.sampling.logprobs ? due.size() : 0));
    const std::size_t rated = request.sampling.prompt_logprobs ? request.prompt.size() - 1 : 0;
    RC_ASSERT(answer.prompt_logprobs.size() == rated);
    for (std::size_t i = 0; i < rated; ++i) {
      RC_ASSERT(answer.prompt_logprobs[i].chosen.token == request.prompt[i + 1]);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(engine_properties)

BOOST_AUTO_TEST_CASE(whatever_happens_no_block_leaks_and_every_request_ends_with_the_tokens_it_is_due) {
  const bool holds = rc::check([] { check_any_history(any_options()); });
  BOOST_TEST(holds);
}

BOOST_AUTO_TEST_CASE(so_it_is_where_steps_are_formed_before_tokens_are_known) {
  const bool holds = rc::check([] {
    EngineOptions options = any_options();
    options.pipeline_stages = 1;
    options.lookahead = true;
    check_any_history(options);
  });
  BOOST_TEST(holds);
}

BOOST_AUTO_TEST_CASE(who_came_first_starts_first_and_equals_end_in_order) {
  const bool holds = rc::check([] {
    EngineOptions options = any_options();
    options.limits.queue = 64;
    Replica replica(options);
    const std::uint32_t room = std::min(options.max_model_len, options.num_blocks * options.block_size);
    const std::uint32_t prompt_length = *rc::gen::inRange(1u, room);
    const std::uint64_t count = *rc::gen::inRange<std::uint64_t>(2, 12);
    for (std::uint64_t i = 0; i < count; ++i) {
      Request request{.request = i, .max_tokens = 6};
      request.prompt.assign(prompt_length, static_cast<std::uint32_t>(i % kVocab));
      RC_ASSERT(replica.admit(request).ok());
    }
    std::vector<std::uint64_t> started;
    replica.on_step = [&](schema::Step::Reader step, const FlatStep&) {
      for (const auto start : step.getStarts()) {
        const std::uint64_t id = start.getSequence();
        if (std::find(started.begin(), started.end(), id) == started.end()) started.push_back(id);
      }
    };
    replica.run_until_idle();
    RC_ASSERT(started.size() == count);
    RC_ASSERT(std::is_sorted(started.begin(), started.end()));
    RC_ASSERT(replica.answer(0).finish == FinishReason::LENGTH);
  });
  BOOST_TEST(holds);
}

BOOST_AUTO_TEST_SUITE_END()
