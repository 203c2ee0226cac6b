#include "actors/scheduler.h"

#include <boost/test/unit_test.hpp>

#include "runtime/engine/replay.h"
#include "runtime/model/mapped_file.h"
#include "tests/actors/scheduler_cast.h"

using namespace troupe;
using namespace troupe::testing;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

BOOST_AUTO_TEST_SUITE(scheduler)

BOOST_AUTO_TEST_CASE(a_request_becomes_steps_and_their_results_become_deltas) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(7);
  BOOST_REQUIRE(cast.steps.size() == 1u);
  BOOST_TEST(cast.steps[0].read()->getFence().getEpoch() == 1u);
  cast.work();
  BOOST_TEST(cast.inbox.requests[7].tokens.size() == 1u);
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[7].tokens == expected(7));
  BOOST_TEST(cast.inbox.requests[7].finish == FinishReason::LENGTH);
  BOOST_TEST(cast.inbox.messages == 4);
}

BOOST_AUTO_TEST_CASE(one_step_gives_one_message_to_each_gateway) {
  Cast cast;
  Inbox other_inbox;
  const caf::actor other = cast.system().spawn(inbox_behavior, &other_inbox);
  cast.generate(1);
  cast.generate(2);
  cast.generate_as(other, 1, 3);
  BOOST_TEST(cast.assemble(1));
  cast.work();
  BOOST_TEST(cast.inbox.messages == 1);
  BOOST_TEST(cast.inbox.requests.size() == 2u);
  BOOST_TEST(other_inbox.messages == 1);
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
  BOOST_TEST(other_inbox.requests[1].tokens == expected(1, 3));
  caf::anon_send_exit(other, caf::exit_reason::user_shutdown);
  cast.run();
}

BOOST_AUTO_TEST_CASE(every_pipeline_slot_holds_a_step) {
  engine::EngineOptions options = Cast::default_options();
  options.pipeline_stages = 3;
  Cast cast(options);
  for (std::uint64_t request = 0; request < 6; ++request) cast.generate(request);
  BOOST_TEST(cast.assemble(1));
  BOOST_TEST(cast.steps.size() == 3u);
  cast.work();
  BOOST_TEST(cast.steps.size() == 3u);
  cast.work_until_idle();
  for (std::uint64_t request = 0; request < 6; ++request) {
    BOOST_TEST(cast.inbox.requests[request].tokens == expected(request));
  }
}

static engine::EngineOptions looking_ahead() {
  engine::EngineOptions options = Cast::default_options();
  options.lookahead = true;
  return options;
}

BOOST_AUTO_TEST_CASE(with_lookahead_a_second_step_is_sent_before_the_first_is_back) {
  Cast cast(looking_ahead());
  BOOST_TEST(cast.assemble(1));
  for (std::uint64_t request = 0; request < 3; ++request) cast.generate(request, 5, 6);
  std::size_t most = 0;
  while (!cast.steps.empty()) {
    most = std::max(most, cast.steps.size());
    cast.work();
  }
  BOOST_TEST(most == 2u);
  for (std::uint64_t request = 0; request < 3; ++request) {
    BOOST_TEST(cast.inbox.requests[request].tokens == expected(request, 5, 6));
  }
}

BOOST_AUTO_TEST_CASE(a_step_that_was_sent_ahead_has_its_time_from_the_result_before_it) {
  Cast cast(looking_ahead());
  BOOST_TEST(cast.assemble(1));
  cast.generate(1, 5, 3);
  BOOST_TEST(cast.steps.size() == 2u);
  cast.pass(900ms);
  cast.work();
  cast.pass(900ms);
  BOOST_TEST(!cast.asks_for_a_new_epoch());
  cast.pass(101ms);
  BOOST_TEST(cast.asks_for_a_new_epoch());
}

BOOST_AUTO_TEST_CASE(a_step_that_was_sent_ahead_is_not_waited_for_when_the_one_before_it_failed) {
  Cast cast(looking_ahead());
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  BOOST_TEST(cast.steps.size() == 2u);
  caf::anon_send(cast.scheduler, make_message<schema::StepResult>([&](schema::StepResult::Builder result) {
                   result.setFence(cast.steps.front().read()->getFence());
                   result.setFailed(true);
                   result.initError().setCode(schema::ErrorInfo::Code::CORRUPT_DATA);
                 }));
  cast.run();
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::ERROR);
  cast.steps.clear();
  cast.pass(900ms);
  cast.generate(2);
  cast.pass(200ms);  // past the time of the step that went on from the failed one
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[2].tokens == expected(2));
}

BOOST_AUTO_TEST_CASE(a_refused_request_gets_one_delta_with_the_reason) {
  engine::EngineOptions options = Cast::default_options();
  options.limits.queue = 1;
  Cast cast(options);
  cast.generate(1, 64);
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::ERROR);
  BOOST_TEST(cast.inbox.requests[1].param == "prompt");
  cast.generate(2);
  cast.generate(3);
  BOOST_TEST((cast.inbox.requests[3].code == ErrorCode::kResourceExhausted));
  BOOST_TEST(cast.inbox.requests[3].param == "queue");
  BOOST_TEST(cast.inbox.messages == 2);
}

BOOST_AUTO_TEST_CASE(gateways_hear_what_the_queue_still_takes_once_the_next_step_has_taken_its_share) {
  engine::EngineOptions options = Cast::default_options();
  options.limits.queue = 3;
  options.max_batch_sequences = 1;
  Cast cast(options);
  BOOST_TEST(cast.assemble(1));
  cast.generate(1, 5, 1);
  for (std::uint64_t request = 2; request < 5; ++request) cast.generate(request);
  BOOST_TEST(cast.inbox.messages == 0);
  cast.generate(5);
  BOOST_TEST((cast.inbox.requests[5].code == ErrorCode::kResourceExhausted));
  BOOST_TEST(cast.inbox.queue_room == 0u);
  cast.work();
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::LENGTH);
  BOOST_TEST(cast.inbox.queue_room == 1u);  // the second has begun
}

BOOST_AUTO_TEST_CASE(a_request_ends_at_its_deadline_whether_it_waits_or_runs) {
  engine::EngineOptions options = Cast::default_options();
  options.max_batch_sequences = 1;
  options.limits.step_timeout_ms = 60'000;
  Cast cast(options);
  BOOST_TEST(cast.assemble(1));
  cast.send_request(cast.gateway, {.request = 1, .prompt = {1, 2, 3}, .max_tokens = 40, .deadline_ms = 500});
  cast.send_request(cast.gateway, {.request = 2, .prompt = {1, 2, 3}, .max_tokens = 40, .deadline_ms = 300});
  cast.send_request(cast.gateway, {.request = 3, .prompt = {1, 2, 3}, .max_tokens = 2});
  cast.work();
  cast.pass(299ms);
  BOOST_TEST(cast.inbox.messages == 1);
  cast.pass(1ms);
  BOOST_TEST((cast.inbox.requests[2].code == ErrorCode::kDeadlineExceeded));
  BOOST_TEST(cast.inbox.requests[2].param == "timeout");
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::NONE);
  cast.pass(200ms);
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kDeadlineExceeded));
  BOOST_TEST(cast.inbox.requests[1].tokens.size() == 1u);
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[3].finish == FinishReason::LENGTH);
}

BOOST_AUTO_TEST_CASE(nothing_more_is_told_of_a_cancelled_request) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  cast.cancel(1);
  cast.cancel(99);
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.messages == 0);
  cast.generate(2);
  BOOST_TEST(cast.steps.front().read()->getReleased().size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_gateway_that_dies_takes_its_requests_along) {
  Cast cast;
  Inbox doomed_inbox;
  const caf::actor doomed = cast.system().spawn(inbox_behavior, &doomed_inbox);
  BOOST_TEST(cast.assemble(1));
  cast.generate_as(doomed, 1, 5, 40);
  cast.generate(1);
  caf::anon_send_exit(doomed, caf::exit_reason::kill);
  cast.run();
  cast.work();
  BOOST_REQUIRE(!cast.steps.empty());
  BOOST_TEST(cast.steps.front().read()->getSequences().size() == 1u);
  cast.work_until_idle();
  BOOST_TEST(doomed_inbox.messages == 0);
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
}

BOOST_AUTO_TEST_CASE(a_late_result_from_the_old_epoch_is_dropped) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  const Message<schema::Step> old_step = cast.steps.front();
  cast.steps.clear();
  BOOST_TEST(cast.assemble(2));
  cast.shard.sequences.clear();
  cast.generate(2);
  cast.steps.push_front(old_step);
  cast.work();
  BOOST_TEST(cast.inbox.messages == 0);
  cast.shard.sequences.clear();
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
  BOOST_TEST(cast.inbox.requests[2].tokens == expected(2));
}

BOOST_AUTO_TEST_CASE(an_epoch_never_comes_back_and_needs_a_stage) {
  Cast cast;
  BOOST_TEST(!cast.assemble(0));
  BOOST_TEST(!cast.assemble(3, "stage/0/1"));
  BOOST_TEST(cast.assemble(3));
  BOOST_TEST(!cast.assemble(3));
  BOOST_TEST(!cast.assemble(2));
}

BOOST_AUTO_TEST_CASE(a_failed_step_is_an_error_for_its_requests_only) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  const std::uint64_t step = cast.steps.front().read()->getFence().getStep();
  cast.steps.clear();
  cast.generate(2);
  caf::anon_send(cast.scheduler, make_message<schema::StepResult>([&](schema::StepResult::Builder result) {
                   result.initFence().setEpoch(1);
                   result.getFence().setStep(step);
                   result.setFailed(true);
                   result.initError().setCode(schema::ErrorInfo::Code::CORRUPT_DATA);
                 }));
  cast.run();
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::ERROR);
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kCorruptData));
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[2].tokens == expected(2));
}

BOOST_AUTO_TEST_CASE(a_member_that_fails_in_a_step_makes_a_new_epoch_and_the_answer_goes_on) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  cast.work();
  caf::anon_send(cast.scheduler, make_message<schema::StepResult>([&](schema::StepResult::Builder result) {
                   result.setFence(cast.steps.front().read()->getFence());
                   result.setFailed(true);
                   result.initError().setCode(schema::ErrorInfo::Code::INTERNAL);
                 }));
  cast.run();
  cast.steps.clear();
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::NONE);
  BOOST_TEST(cast.asks_for_a_new_epoch());
  cast.generate(2);
  BOOST_TEST(cast.steps.empty());
  cast.shard.sequences.clear();
  BOOST_TEST(cast.assemble(2));
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
  BOOST_TEST(cast.inbox.requests[2].tokens == expected(2));
}

BOOST_AUTO_TEST_CASE(a_step_without_a_result_is_given_up_at_its_deadline_and_asks_for_a_new_epoch) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  cast.work();
  cast.pass(600ms);
  cast.work();
  cast.pass(600ms);  // over since the first step, not since the newest
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::NONE);
  BOOST_TEST(!cast.asks_for_a_new_epoch());
  cast.pass(500ms);
  BOOST_TEST(cast.asks_for_a_new_epoch());
  const Message<schema::Step> late = cast.steps.front();
  cast.steps.clear();
  cast.generate(2);
  BOOST_TEST(cast.steps.empty());
  cast.steps.push_front(late);
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens.size() == 2u);
  cast.shard.sequences.clear();
  BOOST_TEST(cast.assemble(2));
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
  BOOST_TEST(cast.inbox.requests[2].tokens == expected(2));
}

BOOST_AUTO_TEST_CASE(after_a_loss_requests_wait_for_the_next_epoch) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  caf::anon_send(cast.scheduler, make_message<schema::Lost>([](schema::Lost::Builder lost) {
                   lost.initActors(2).set(0, "gateway");
                   lost.getActors().set(1, "shard/0/1/0");
                   lost.setReason("killed");
                 }));
  cast.run();
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::NONE);
  cast.steps.clear();
  cast.generate(2);
  BOOST_TEST(cast.steps.empty());
  cast.shard.sequences.clear();
  BOOST_TEST(cast.assemble(2));
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
  BOOST_TEST(cast.inbox.requests[2].tokens == expected(2));
}

BOOST_AUTO_TEST_CASE(the_loss_of_strangers_changes_nothing) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  caf::anon_send(cast.scheduler, make_message<schema::Lost>([](schema::Lost::Builder lost) {
                   lost.initActors(3).set(0, "gateway");
                   lost.getActors().set(1, "shard/1/0/0");
                   lost.getActors().set(2, "shard/01/0");
                 }));
  cast.run();
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
}

BOOST_AUTO_TEST_CASE(what_was_in_flight_at_a_dead_stage_waits_no_longer_than_other_requests) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  caf::anon_send_exit(cast.stage, caf::exit_reason::kill);
  cast.run();
  cast.pass(4'000ms);
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::NONE);
  cast.pass(1'500ms);
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kUnavailable));
}

BOOST_AUTO_TEST_CASE(who_waits_too_long_for_a_member_is_refused) {
  Cast cast;
  cast.generate(1);
  cast.pass(4'000ms);
  cast.generate(2);
  BOOST_TEST(cast.inbox.messages == 0);
  cast.pass(1'500ms);
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kUnavailable));
  BOOST_TEST(cast.inbox.messages == 1);
  cast.pass(4'000ms);
  BOOST_TEST((cast.inbox.requests[2].code == ErrorCode::kUnavailable));
  BOOST_TEST(cast.inbox.messages == 2);
}

BOOST_AUTO_TEST_CASE(the_first_token_says_how_long_the_request_waited) {
  Cast cast;
  cast.generate(1);
  cast.pass(250ms);
  BOOST_TEST(cast.assemble(1));
  cast.work();
  BOOST_TEST(cast.inbox.requests[1].queue_ns == 250'000'000u);
}

BOOST_AUTO_TEST_CASE(draining_finishes_what_runs_and_admits_nothing) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  auto drained =
      cast.self->request(cast.scheduler, caf::infinite,
                         make_message<schema::Drain>([](schema::Drain::Builder drain) { drain.setDeadlineMs(800); }));
  cast.run();
  cast.generate(2);
  BOOST_TEST((cast.inbox.requests[2].code == ErrorCode::kUnavailable));
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens == expected(1));
  BOOST_TEST(cast.answered_ok(drained));
}

BOOST_AUTO_TEST_CASE(what_still_runs_at_the_end_of_a_drain_is_cut_off) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  auto drained =
      cast.self->request(cast.scheduler, caf::infinite,
                         make_message<schema::Drain>([](schema::Drain::Builder drain) { drain.setDeadlineMs(800); }));
  cast.run();
  cast.pass(900ms);
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::ERROR);
  BOOST_TEST(cast.answered_ok(drained));
}

BOOST_AUTO_TEST_CASE(what_a_scheduler_recorded_can_be_gone_through_again) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("troupe-scheduler-" + std::to_string(std::random_device{}()));
  std::uint64_t steps = 0;
  {
    Cast cast(Cast::default_options(), path.string());
    BOOST_TEST(cast.assemble(1));
    for (std::uint64_t request = 1; request < 7; ++request) cast.generate(request);
    cast.cancel(3);
    while (!cast.steps.empty()) {
      cast.pass(7ms);
      cast.work();
      ++steps;
    }
    cast.send_request(cast.gateway, {.request = 8, .prompt = {1, 2, 3}, .max_tokens = 40, .deadline_ms = 20});
    cast.pass(30ms);
    cast.steps.clear();
    cast.shard.sequences.clear();
    BOOST_TEST(cast.assemble(2));
    ++steps;
  }
  auto file = model::MappedFile::open(path);
  BOOST_REQUIRE(file.ok());
  auto replay = engine::Replay::open(file->bytes());
  BOOST_REQUIRE(replay.ok());
  std::map<std::string, std::uint64_t> kinds;
  while (true) {
    const auto event = (*replay)->next();
    BOOST_REQUIRE(event.ok());
    if (!*event) break;
    BOOST_TEST((*event)->same);
    ++kinds[(*event)->kind];
  }
  BOOST_TEST(kinds["admit"] == 7u);
  BOOST_TEST(kinds["cancel"] == 1u);
  BOOST_TEST(kinds["step"] == steps);
  BOOST_TEST(kinds["result"] == steps - 1);
  BOOST_TEST(kinds["epoch"] == 2u);
  BOOST_TEST((*replay)->engine().counts().expired == 1u);
  BOOST_TEST((*replay)->left_over_bytes() == 0u);
  std::filesystem::remove(path);
}

BOOST_AUTO_TEST_CASE(stats_show_the_queue_the_pages_and_the_steps) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1, 5, 2);
  cast.generate(2, 5, 9);
  cast.work();
  cast.work();
  std::map<std::string, double> values;
  std::uint64_t steps_timed = 0;
  auto pending = cast.self->request(cast.scheduler, caf::infinite,
                                    make_message<schema::StatsRequest>([](schema::StatsRequest::Builder) {}));
  cast.run();
  pending.receive(
      [&](const Message<schema::Stats>& message) {
        const auto stats = message.read();
        BOOST_TEST(stats->getActor().cStr() == std::string("scheduler/0"));
        for (const auto family : stats->getFamilies()) {
          const auto metric = family.getMetrics()[0];
          values[family.getName().cStr()] = metric.getValue();
          if (family.getName() == "troupe_scheduler_step_seconds") steps_timed = metric.getCount();
        }
      },
      [&](const caf::error& error) { BOOST_FAIL(cast.system().render(error)); });
  BOOST_TEST(values["troupe_scheduler_kv_blocks"] == 32);
  BOOST_TEST(values["troupe_scheduler_kv_blocks_used"] == 2);
  BOOST_TEST(values["troupe_scheduler_running_sequences"] == 1);
  BOOST_TEST(values["troupe_scheduler_kv_blocks_cached"] == 2);  // the full one of each prompt
  BOOST_TEST(values["troupe_scheduler_prefix_cache_queried_tokens_total"] == 10);
  BOOST_TEST(values["troupe_scheduler_prefix_cache_hit_tokens_total"] == 0);
  BOOST_TEST(values["troupe_scheduler_queue_length"] == 0);
  BOOST_TEST(values["troupe_scheduler_steps_total"] == 3);
  BOOST_TEST(values["troupe_scheduler_generated_tokens_total"] == 3);
  BOOST_TEST(steps_timed == 2u);
}

BOOST_AUTO_TEST_SUITE_END()
