#include "runtime/engine/draft_book.h"

#include <boost/test/unit_test.hpp>
#include <map>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

namespace {

using Tokens = std::vector<std::uint32_t>;

// A draft that has the model's own taste, but for every `wrong_every`-th guess.
class FakeDraft {
 public:
  std::uint32_t wrong_every = 1'000'000;

  void answer(schema::DraftRequest::Reader request, schema::DraftReply::Builder reply) {
    for (const std::uint64_t sequence : request.getReleased()) known_.erase(sequence);
    const auto size = request.getSequences().size();
    auto lengths = reply.initLengths(size);
    auto counts = reply.initGuessCounts(size);
    Tokens guesses;
    unsigned next = 0;
    for (unsigned i = 0; i < size; ++i) {
      Tokens& tokens = known_[request.getSequences()[i]];
      const std::uint32_t start = request.getStartPositions()[i], count = request.getTokenCounts()[i];
      const bool continues = start <= tokens.size();
      if (continues) tokens.resize(start);
      for (std::uint32_t k = 0; k < count; ++k) {
        if (continues) tokens.push_back(request.getTokens()[next]);
        ++next;
      }
      if (!continues) tokens.clear();
      lengths.set(i, static_cast<std::uint32_t>(tokens.size()));
      if (tokens.empty()) continue;
      counts.set(i, request.getGuesses());
      Tokens history = tokens;
      for (std::uint32_t k = 0; k < request.getGuesses(); ++k) {
        const std::vector<float> logits = fake_logits(history, kVocab);
        const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
        history.push_back((static_cast<std::uint32_t>(best) + (++guessed_ % wrong_every == 0 ? 1 : 0)) % kVocab);
        guesses.push_back(history.back());
      }
    }
    reply.setTokens({guesses.data(), guesses.size()});
  }

  void forget_all() { known_.clear(); }
  const Tokens& known(std::uint64_t sequence) { return known_[sequence]; }
  std::size_t size() const { return known_.size(); }

 private:
  std::map<std::uint64_t, Tokens> known_;
  std::uint32_t guessed_ = 0;
};

EngineOptions with_draft(EngineOptions options) {
  options.max_guesses = 4;
  options.uses_draft = true;
  return options;
}

// A replica with a draft that answers at once, unless told otherwise.
struct Pair {
  explicit Pair(const EngineOptions& options) : replica(options) {}

  // False when there was nothing to ask.
  bool ask() {
    auto next = std::make_unique<capnp::MallocMessageBuilder>();
    if (!replica.engine.form_draft_request(next->initRoot<schema::DraftRequest>(), replica.now_ns)) return false;
    request = std::move(next);
    replica.now_ns += 30;
    return true;
  }
  void answer() { answer(asked()); }
  void answer(schema::DraftRequest::Reader to) {
    capnp::MallocMessageBuilder reply;
    draft.answer(to, reply.initRoot<schema::DraftReply>());
    replica.engine.take_guesses(reply.getRoot<schema::DraftReply>().asReader(), replica.now_ns);
  }
  bool step() {
    if (!replica.form_step()) return false;
    replica.now_ns += 100 + replica.newest_step().getTokens().size();
    replica.run_oldest_step();
    return true;
  }
  void run_until_idle() {
    do {
      if (ask()) answer();
    } while (step());
  }
  schema::DraftRequest::Reader asked() { return request->getRoot<schema::DraftRequest>().asReader(); }

  Replica replica;
  FakeDraft draft;
  std::unique_ptr<capnp::MallocMessageBuilder> request;
};

Request greedy(std::uint64_t number, std::uint32_t max_tokens = 30) {
  return {.request = number,
          .prompt = prompt_of(7, static_cast<std::uint32_t>(number)),
          .max_tokens = max_tokens,
          .sampling = {{.temperature = 0}}};
}

Tokens due(const Request& request) {
  return expected_tokens(request.prompt, request.max_tokens, request.sampling, kVocab);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(draft_book)

BOOST_AUTO_TEST_CASE(a_draft_that_is_right_saves_steps_and_one_that_errs_changes_nothing) {
  std::uint64_t steps_without = 0;
  for (const std::uint32_t wrong_every : {1'000'000u, 3u, 1u}) {
    Pair pair(with_draft(roomy_options()));
    pair.draft.wrong_every = wrong_every;
    for (std::uint64_t number : {1, 2, 3}) BOOST_REQUIRE(pair.replica.admit(greedy(number)).ok());
    pair.run_until_idle();
    for (std::uint64_t number : {1, 2, 3}) BOOST_TEST(pair.replica.answer(number).tokens == due(greedy(number)));
    const EngineCounts counts = pair.replica.engine.counts();
    if (wrong_every == 1) BOOST_TEST(counts.speculation.accepted < counts.speculation.proposed / 2);
    if (wrong_every > 3) BOOST_TEST(counts.speculation.accepted == counts.speculation.proposed);
    if (wrong_every > 3) BOOST_TEST(counts.steps <= 12u);
    steps_without = std::max(steps_without, counts.steps);
    BOOST_TEST(pair.replica.engine.blocks().free_blocks() == 64u);
  }
  BOOST_TEST(steps_without > 12u);
}

BOOST_AUTO_TEST_CASE(sampled_answers_with_penalties_are_the_same_with_a_draft) {
  Pair pair(with_draft(roomy_options()));
  std::vector<Request> requests;
  for (std::uint64_t number = 0; number < 6; ++number) {
    Request request = greedy(number);
    request.sampling = {{.temperature = 0.3F, .top_p = 0.9F, .frequency_penalty = 0.1F, .seed = number}};
    if (number % 2 == 0) request.sampling.stop_tokens = {3, 4, 5, 6};
    if (number % 3 == 0) request.sampling.min_tokens = 8;
    requests.push_back(request);
    BOOST_REQUIRE(pair.replica.admit(request).ok());
  }
  pair.run_until_idle();
  BOOST_TEST(pair.replica.engine.counts().speculation.accepted > 0u);
  for (const Request& request : requests) BOOST_TEST(pair.replica.answer(request.request).tokens == due(request));
}

BOOST_AUTO_TEST_CASE(the_draft_is_told_what_is_new_and_what_ended) {
  Pair pair(with_draft(roomy_options()));
  BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
  for (int i = 0; i < 2; ++i) {
    BOOST_TEST(!pair.ask());  // reads its prompt, or nobody knows what a step costs
    BOOST_REQUIRE(pair.step());
  }
  BOOST_REQUIRE(pair.ask());
  BOOST_TEST(pair.asked().getStartPositions()[0] == 0u);
  BOOST_TEST(pair.asked().getTokenCounts()[0] == 9u);
  BOOST_TEST(!pair.ask(), "one request at a time");
  pair.answer();
  BOOST_TEST(!pair.ask(), "it was asked already");
  BOOST_REQUIRE(pair.step());
  BOOST_REQUIRE(pair.ask());
  BOOST_TEST(pair.asked().getStartPositions()[0] == 9u);
  pair.answer();
  pair.run_until_idle();
  BOOST_REQUIRE(pair.replica.admit(greedy(2)).ok());
  pair.run_until_idle();
  BOOST_TEST(pair.draft.size() == 1u);
}

BOOST_AUTO_TEST_CASE(the_draft_is_told_of_a_prompt_while_the_model_reads_it) {
  for (const bool forgets : {false, true}) {
    Pair pair(with_draft(roomy_options()));
    BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
    pair.run_until_idle();  // what a step costs is known then

    BOOST_REQUIRE(pair.replica.admit(greedy(2)).ok());
    BOOST_REQUIRE(pair.replica.form_step());
    BOOST_REQUIRE(pair.ask());
    BOOST_TEST(pair.asked().getGuesses() == 0u);
    BOOST_TEST(pair.asked().getTokenCounts()[0] == 7u);
    BOOST_TEST(!pair.replica.engine.draft_deadline_ns().has_value(), "nobody waits for that");
    BOOST_TEST(!pair.ask(), "it is told once");
    const auto told = std::move(pair.request);

    // The draft reads still; what it is asked next comes after that.
    pair.replica.now_ns += 100;
    pair.replica.run_oldest_step();
    BOOST_REQUIRE(pair.ask());
    BOOST_TEST(pair.asked().getGuesses() > 0u);
    BOOST_TEST(pair.asked().getStartPositions()[0] == 7u);
    BOOST_TEST(!pair.replica.form_step());
    pair.answer(told->getRoot<schema::DraftRequest>().asReader());
    BOOST_TEST(!pair.replica.form_step());
    if (forgets) pair.draft.forget_all();
    pair.answer();
    BOOST_REQUIRE(pair.replica.form_step());
    BOOST_TEST(pair.replica.newest_step().getGuessCounts().size() == (forgets ? 0u : 1u));
    pair.replica.run_oldest_step();
    BOOST_REQUIRE(pair.ask());
    BOOST_TEST(pair.asked().getStartPositions()[0] == (forgets ? 0u : 8u));
    pair.answer();
    pair.run_until_idle();
    BOOST_TEST(pair.replica.answer(2).tokens == due(greedy(2)));
  }
}

BOOST_AUTO_TEST_CASE(a_sequence_waits_for_guesses_until_they_come_or_are_not_worth_it_any_more) {
  Pair pair(with_draft(roomy_options()));
  BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
  while (!pair.ask()) BOOST_REQUIRE(pair.step());
  BOOST_TEST(!pair.replica.form_step());
  BOOST_REQUIRE(pair.replica.engine.draft_deadline_ns().has_value());
  BOOST_TEST(*pair.replica.engine.draft_deadline_ns() > pair.replica.now_ns);
  BOOST_TEST(*pair.replica.engine.draft_deadline_ns() < pair.replica.now_ns + 500);
  pair.replica.engine.stop_waiting_for_draft();
  BOOST_TEST(!pair.replica.engine.draft_deadline_ns().has_value());
  BOOST_REQUIRE(pair.step());
  BOOST_TEST(pair.replica.engine.counts().speculation.proposed == 0u);

  // What comes too late is no guess for what is there now, but the draft knows those tokens.
  pair.answer();
  BOOST_REQUIRE(pair.step());
  BOOST_TEST(pair.replica.engine.counts().speculation.proposed == 0u);
  BOOST_REQUIRE(pair.ask());
  BOOST_TEST(pair.asked().getStartPositions()[0] > 0u);
  pair.answer();
  pair.run_until_idle();
  BOOST_TEST(pair.replica.answer(1).tokens == due(greedy(1)));
}

BOOST_AUTO_TEST_CASE(others_run_while_a_sequence_waits) {
  Pair pair(with_draft(roomy_options()));
  BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
  while (!pair.ask()) BOOST_REQUIRE(pair.step());
  BOOST_REQUIRE(pair.replica.admit(greedy(2)).ok());
  BOOST_REQUIRE(pair.replica.form_step());
  BOOST_TEST(pair.replica.newest_step().getSequences().size() == 1u);
  BOOST_TEST(pair.replica.newest_step().getSequences()[0] == 2u);
}

BOOST_AUTO_TEST_CASE(a_draft_that_is_lost_holds_up_nobody_and_the_next_is_told_everything) {
  Pair pair(with_draft(roomy_options()));
  BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
  while (!pair.ask()) BOOST_REQUIRE(pair.step());
  pair.replica.engine.lose_draft();
  pair.draft.forget_all();
  BOOST_REQUIRE(pair.step());
  BOOST_REQUIRE(pair.ask());
  BOOST_TEST(pair.asked().getStartPositions()[0] == 0u);
  pair.answer();
  pair.run_until_idle();
  BOOST_TEST(pair.replica.answer(1).tokens == due(greedy(1)));
}

BOOST_AUTO_TEST_CASE(a_draft_that_forgot_a_sequence_is_told_it_again) {
  Pair pair(with_draft(roomy_options()));
  BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
  while (!pair.ask()) BOOST_REQUIRE(pair.step());
  pair.answer();
  BOOST_REQUIRE(pair.step());
  pair.draft.forget_all();
  BOOST_REQUIRE(pair.ask());
  pair.answer();
  BOOST_REQUIRE(pair.step());
  BOOST_REQUIRE(pair.ask());
  BOOST_TEST(pair.asked().getStartPositions()[0] == 0u);
  pair.answer();
  pair.run_until_idle();
  BOOST_TEST(pair.replica.answer(1).tokens == due(greedy(1)));
}

BOOST_AUTO_TEST_CASE(an_answer_that_does_not_fit_is_no_guess_and_not_asked_for_again) {
  const auto answered = [](auto spoil) {
    Pair pair(with_draft(roomy_options()));
    BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
    while (!pair.ask()) BOOST_REQUIRE(pair.step());
    capnp::MallocMessageBuilder message;
    auto reply = message.initRoot<schema::DraftReply>();
    pair.draft.answer(pair.asked(), reply);
    spoil(reply);
    pair.replica.engine.take_guesses(reply.asReader(), pair.replica.now_ns);
    BOOST_TEST(!pair.ask());
    pair.run_until_idle();
    BOOST_TEST(pair.replica.answer(1).tokens == due(greedy(1)));
    BOOST_TEST(pair.replica.engine.counts().speculation.proposed == 0u);
  };
  answered([](auto reply) { reply.initLengths(0); });
  answered([](auto reply) { reply.initLengths(2); });
  answered([](auto reply) { reply.initGuessCounts(0); });
  answered([](auto reply) { reply.getGuessCounts().set(0, 1'000); });
  answered([](auto reply) { reply.initTokens(1'000); });
  answered([](auto reply) {
    reply.initTokens(1'000);
    reply.getGuessCounts().set(0, 1'000);
  });
  answered([](auto reply) {  // no room for it
    reply.getLengths().set(0, 0);
    reply.getGuessCounts().set(0, 0);
    reply.initTokens(0);
  });
}

BOOST_AUTO_TEST_CASE(who_is_cancelled_preempted_or_reset_while_it_waits_is_no_problem_of_the_answer) {
  Pair pair(with_draft(roomy_options()));
  BOOST_REQUIRE(pair.replica.admit(greedy(1)).ok());
  BOOST_REQUIRE(pair.replica.admit(greedy(2)).ok());
  while (!pair.ask()) BOOST_REQUIRE(pair.step());
  pair.replica.engine.cancel(1, 1);
  pair.replica.begin_epoch(2);
  pair.answer();
  pair.run_until_idle();
  BOOST_TEST(pair.replica.answer(2).tokens == due(greedy(2)));
  BOOST_TEST(pair.replica.engine.idle());
}

BOOST_AUTO_TEST_CASE(a_draft_that_errs_is_asked_about_one_sequence_from_time_to_time) {
  Pair pair(with_draft(roomy_options(200)));
  pair.draft.wrong_every = 1;
  for (std::uint64_t number = 0; number < 8; ++number) BOOST_REQUIRE(pair.replica.admit(greedy(number, 56)).ok());
  int asked = 0;
  std::uint32_t last = 0;
  do {
    if (!pair.ask()) continue;
    last = pair.asked().getSequences().size();
    ++asked;
    pair.answer();
  } while (pair.step());
  BOOST_TEST(asked <= 14);
  BOOST_TEST(last == 1u);
}

BOOST_AUTO_TEST_CASE(a_draft_that_takes_longer_than_it_brings_is_hardly_ever_asked) {
  Pair pair(with_draft(roomy_options(200)));
  pair.replica.now_ns = 1'000;
  Request request = greedy(1, 56);
  BOOST_REQUIRE(pair.replica.admit(request).ok());
  int asked = 0;
  do {
    if (!pair.ask()) continue;
    ++asked;
    pair.replica.now_ns += 5'000;
    pair.answer();
  } while (pair.step());
  BOOST_TEST(asked <= 6);
  BOOST_TEST(pair.replica.answer(1).tokens == due(request));
}

BOOST_AUTO_TEST_SUITE_END()
