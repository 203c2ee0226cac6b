#pragma once

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
#include "actors/scheduler.h"
#include "tests/actors/manual_system.h"
#include "tests/runtime/engine/replica.h"

namespace troupe::testing {

using namespace std::chrono_literals;
using engine::testing::FakeShard;
using engine::testing::kVocab;
using engine::testing::Request;
using fabric::make_message;
using fabric::Message;
using schema::FinishReason;

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

inline caf::behavior inbox_behavior(caf::event_based_actor*, Inbox* inbox) {
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
inline caf::behavior stage_behavior(caf::event_based_actor*, std::deque<Message<schema::Step>>* steps) {
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
inline caf::behavior draft_behavior(caf::event_based_actor* actor, Draft* draft) {
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

struct Cast : ManualSystem {
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

  // Whether the scheduler has told who assembled it that a member is lost.
  bool asks_for_a_new_epoch() {
    bool asked = false;
    self->receive([&](const Message<schema::Lost>& lost) { asked = lost.read()->getActors().size() == 1; },
                  caf::after(0s) >> [] {});
    return asked;
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

inline std::vector<std::uint32_t> expected(std::uint64_t request, std::uint32_t prompt_length = 5,
                                           std::uint32_t max_tokens = 4) {
  const std::vector<std::uint32_t> prompt(prompt_length, static_cast<std::uint32_t>(request % kVocab));
  return engine::testing::expected_tokens(prompt, max_tokens, {}, kVocab);
}

}  // namespace troupe::testing
