#include "actors/scheduler.h"

#include <boost/test/unit_test.hpp>
#include <caf/all.hpp>
#include <chrono>
#include <deque>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "actors/interfaces.h"
#include "runtime/engine/replay.h"
#include "runtime/model/mapped_file.h"
#include "tests/actors/manual_system.h"
#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace std::chrono_literals;
using engine::testing::FakeShard;
using engine::testing::kVocab;
using engine::testing::Request;
using fabric::make_message;
using fabric::Message;
using schema::FinishReason;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

namespace {

struct Progress {
  std::vector<std::uint32_t> tokens;
  FinishReason finish = FinishReason::NONE;
  ErrorCode code{};
  std::string param;
  std::uint64_t queue_ns = 0;
};

// A gateway that writes down what it is told.
struct Inbox {
  std::map<std::uint64_t, Progress> requests;
  int messages = 0;
  std::uint32_t queue_room = 0;  // as told last
  std::uint32_t retry_after_ms = 0;
};

caf::behavior inbox_behavior(caf::event_based_actor*, Inbox* inbox) {
  return {[inbox](const Message<schema::Deltas>& message) {
    ++inbox->messages;
    const auto deltas = message.read();
    inbox->queue_room = deltas->getQueueRoom();
    inbox->retry_after_ms = deltas->getRetryAfterMs();
    for (const auto delta : deltas->getItems()) {
      Progress& progress = inbox->requests[delta.getRequest()];
      for (const std::uint32_t token : delta.getTokens()) progress.tokens.push_back(token);
      progress.finish = delta.getFinish();
      progress.code = static_cast<ErrorCode>(delta.getError().getCode());
      progress.param = delta.getError().getParam().cStr();
      progress.queue_ns += delta.getQueueNs();
    }
  }};
}

// Stage 0 that keeps the steps until the test lets it work.
caf::behavior stage_behavior(caf::event_based_actor*, std::deque<Message<schema::Step>>* steps) {
  return {[steps](const Message<schema::Step>& step) { steps->push_back(step); }};
}

// A draft that keeps what it is asked until the test lets it answer.
struct Draft {
  struct Pending {
    Message<schema::DraftRequest> request;
    caf::response_promise promise;
  };
  std::deque<Pending> pending;
};

// Guesses token 1 for everybody, once told to (ok).
caf::behavior draft_behavior(caf::event_based_actor* actor, Draft* draft) {
  return {[actor, draft](const Message<schema::DraftRequest>& request) {
            auto promise = actor->make_response_promise();
            draft->pending.push_back({request, promise});
            return promise;
          },
          [draft](caf::ok_atom) {
            Draft::Pending asked = draft->pending.front();
            draft->pending.pop_front();
            asked.promise.deliver(make_message<schema::DraftReply>([&](schema::DraftReply::Builder reply) {
              const auto request = asked.request.read();
              const unsigned size = request->getSequences().size();
              reply.initLengths(size);
              reply.initGuessCounts(size);
              reply.initTokens(size);
              for (unsigned i = 0; i < size; ++i) {
                reply.getLengths().set(i, request->getStartPositions()[i] + request->getTokenCounts()[i]);
                reply.getGuessCounts().set(i, 1);
                reply.getTokens().set(i, 1);
              }
            }));
          }};
}

struct Cast : troupe::testing::ManualSystem {
  explicit Cast(engine::EngineOptions options = default_options(), const std::string& record_file = {})
      : self(system()),
        draft_actor(system().spawn(draft_behavior, &draft)),
        stage(system().spawn(stage_behavior, &steps)),
        gateway(system().spawn(inbox_behavior, &inbox)),
        shard({.num_blocks = options.num_blocks,
               .block_size = options.block_size,
               .max_model_len = options.max_model_len,
               .max_batch_tokens = options.max_batch_tokens,
               .max_batch_sequences = options.max_batch_sequences,
               .max_sequences = options.max_batch_sequences * options.pipeline_stages,
               .vocab_size = kVocab}) {
    auto spawned = spawn_scheduler(
        system(),
        {.engine = options, .record_file = record_file, .resolve = [this](schema::ActorAddress::Reader address) {
           if (address.getActor() == "draft/0") return draft_actor;
           return address.getActor() == "stage/0/0" ? stage : caf::actor{};
         }});
    BOOST_REQUIRE(spawned.ok());
    scheduler = *std::move(spawned);
    run();
  }

  ~Cast() {
    for (const caf::actor& actor : {scheduler, stage, gateway, draft_actor}) {
      caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
    }
    run();
  }

  static engine::EngineOptions default_options() {
    engine::EngineOptions options{.num_blocks = 32,
                                  .block_size = 4,
                                  .max_model_len = 64,
                                  .max_batch_tokens = 32,
                                  .max_batch_sequences = 4,
                                  .pipeline_stages = 1};
    options.limits.step_timeout_ms = 1'000;
    options.limits.away_wait_ms = 5'000;
    return options;
  }

  void generate(std::uint64_t request, std::uint32_t prompt_length = 5, std::uint32_t max_tokens = 4) {
    generate_as(gateway, request, prompt_length, max_tokens);
  }
  void generate_as(const caf::actor& from, std::uint64_t request, std::uint32_t prompt_length = 5,
                   std::uint32_t max_tokens = 4) {
    const std::vector<std::uint32_t> prompt(prompt_length, static_cast<std::uint32_t>(request % kVocab));
    send_request(from, {.request = request, .prompt = prompt, .max_tokens = max_tokens});
  }
  void send_request(const caf::actor& from, const Request& request) {
    caf::send_as(from, scheduler, make_message<schema::Generate>([&](schema::Generate::Builder generate) {
                   engine::testing::write_generate(request, generate);
                 }));
    run();
  }
  void cancel(std::uint64_t request) {
    caf::send_as(gateway, scheduler,
                 make_message<schema::Cancel>([&](schema::Cancel::Builder cancel) { cancel.setRequest(request); }));
    run();
  }

  bool assemble(std::uint64_t epoch, const char* first_stage = "stage/0/0") {
    return ask<schema::Assemble>([&](schema::Assemble::Builder assemble) {
      assemble.setEpoch(epoch);
      auto actors = assemble.initActors(3);
      actors[0].setActor("scheduler/0");
      actors[1].setActor(first_stage);
      actors[2].setActor("draft/0");
    });
  }

  // Whether the answer is ok.
  template <class Question, class Fill>
  bool ask(Fill&& fill) {
    auto pending = self->request(scheduler, caf::infinite, make_message<Question>(std::forward<Fill>(fill)));
    run();
    return answered_ok(pending);
  }
  template <class Pending>
  bool answered_ok(Pending& pending) {
    bool ok = false;
    pending.receive([&](const Message<schema::Outcome>& outcome) { ok = outcome.read()->isOk(); },
                    [&](const caf::error& error) { BOOST_FAIL(system().render(error)); });
    return ok;
  }

  // Works off the oldest step and sends its result.
  void work() {
    BOOST_REQUIRE(!steps.empty());
    const Message<schema::Step> step = steps.front();
    steps.pop_front();
    caf::anon_send(scheduler, make_message<schema::StepResult>([&](schema::StepResult::Builder result) {
                     const auto reader = step.read();
                     shard.run(reader.root(), result);
                   }));
    run();
  }
  void answer_draft() {
    BOOST_REQUIRE(!draft.pending.empty());
    caf::anon_send(draft_actor, caf::ok_atom::value);
    run();
  }

  static engine::EngineOptions draft_options() {
    engine::EngineOptions options = default_options();
    options.max_guesses = 4;
    options.uses_draft = true;
    return options;
  }

  void work_until_idle() {
    while (!steps.empty()) work();
  }

  caf::scoped_actor self;
  Draft draft;
  caf::actor draft_actor;
  std::deque<Message<schema::Step>> steps;
  Inbox inbox;
  caf::actor stage;
  caf::actor gateway;
  caf::actor scheduler;
  FakeShard shard;
};

std::vector<std::uint32_t> expected(std::uint64_t request, std::uint32_t prompt_length = 5,
                                    std::uint32_t max_tokens = 4) {
  const std::vector<std::uint32_t> prompt(prompt_length, static_cast<std::uint32_t>(request % kVocab));
  return engine::testing::expected_tokens(prompt, max_tokens, {}, kVocab);
}

}  // namespace

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

BOOST_AUTO_TEST_CASE(the_draft_is_asked_before_a_step_and_its_guesses_change_no_token) {
  Cast cast(Cast::draft_options());
  BOOST_TEST(cast.assemble(1));
  cast.generate(7, 5, 12);
  int asked = 0;
  while (!cast.steps.empty() || !cast.draft.pending.empty()) {
    if (!cast.draft.pending.empty()) {
      BOOST_TEST(cast.steps.empty(), "no step before the guesses are there");
      ++asked;
      cast.answer_draft();
    } else {
      cast.pass(1ms);
      cast.work();
    }
  }
  BOOST_TEST(asked > 2);
  BOOST_TEST(cast.inbox.requests[7].tokens == expected(7, 5, 12));
}

BOOST_AUTO_TEST_CASE(a_draft_that_says_nothing_or_ends_holds_up_nobody) {
  for (const bool ends : {false, true}) {
    Cast cast(Cast::draft_options());
    BOOST_TEST(cast.assemble(1));
    cast.generate(7, 5, 12);
    while (cast.draft.pending.empty()) {
      BOOST_REQUIRE(!cast.steps.empty());
      cast.pass(1ms);
      cast.work();
    }
    BOOST_TEST(cast.steps.empty());
    if (ends) {
      caf::anon_send_exit(cast.draft_actor, caf::exit_reason::kill);
      cast.draft.pending.clear();
      cast.run();
    } else {
      cast.pass(100ms);
    }
    BOOST_REQUIRE(cast.steps.size() == 1u);
    BOOST_TEST(cast.steps[0].read()->getGuessCounts().size() == 0u);
    cast.work_until_idle();
    BOOST_TEST(cast.inbox.requests[7].tokens == expected(7, 5, 12));
  }
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
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::ERROR);
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kUnavailable));
  cast.shard.sequences.clear();
  cast.generate(2);
  cast.steps.push_front(old_step);
  cast.work();
  cast.shard.sequences.clear();
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[1].tokens.empty());
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
                   result.initError().setCode(schema::ErrorInfo::Code::INTERNAL);
                 }));
  cast.run();
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::ERROR);
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kInternal));
  cast.work_until_idle();
  BOOST_TEST(cast.inbox.requests[2].tokens == expected(2));
}

BOOST_AUTO_TEST_CASE(a_step_without_a_result_fails_at_its_deadline_and_asks_for_a_new_epoch) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  cast.work();
  cast.pass(600ms);
  cast.work();
  cast.pass(600ms);  // over since the first step, not since the newest
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::NONE);
  cast.pass(500ms);
  BOOST_TEST(cast.inbox.requests[1].finish == FinishReason::ERROR);
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kDeadlineExceeded));
  bool asked = false;
  cast.self->receive([&](const Message<schema::Lost>& lost) { asked = lost.read()->getActors().size() == 1; },
                     caf::after(0s) >> [] {});
  BOOST_TEST(asked);
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
  BOOST_TEST((cast.inbox.requests[1].code == ErrorCode::kUnavailable));
  cast.steps.clear();
  cast.generate(2);
  BOOST_TEST(cast.steps.empty());
  cast.shard.sequences.clear();
  BOOST_TEST(cast.assemble(2));
  cast.work_until_idle();
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

BOOST_AUTO_TEST_CASE(a_dead_stage_fails_what_is_in_flight_at_once) {
  Cast cast;
  BOOST_TEST(cast.assemble(1));
  cast.generate(1);
  caf::anon_send_exit(cast.stage, caf::exit_reason::kill);
  cast.run();
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
