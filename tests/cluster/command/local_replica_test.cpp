#include "cluster/command/local_replica.h"

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <thread>

using namespace troupe;
using namespace troupe::cluster;

namespace {

const std::filesystem::path kTutor = "examples/models/tutor";

struct Answer {
  std::vector<std::uint32_t> tokens;
  schema::FinishReason finish = schema::FinishReason::NONE;
};

using Answers = std::map<std::uint64_t, Answer>;

// Three prompts that are served together; the first is longer than a step.
Result<Answers> serve(LocalReplica& replica) {
  Answers answers;
  for (const std::uint64_t request : {1, 2, 3}) {
    std::vector<std::uint32_t> prompt;
    for (std::uint32_t i = 0; i < 40 / request; ++i) {
      prompt.push_back(static_cast<std::uint32_t>(100 + 7 * i + request));
    }
    TROUPE_RETURN_IF_ERROR(replica.admit(request, prompt, 12));
  }
  while (!replica.idle()) {
    TROUPE_ASSIGN_OR_RETURN(const auto deltas, replica.step());
    for (const engine::Delta& delta : deltas) {
      Answer& answer = answers[delta.request];
      answer.tokens.insert(answer.tokens.end(), delta.tokens.begin(), delta.tokens.end());
      answer.finish = delta.finish;
    }
  }
  return answers;
}

// The answers of a replica of so many ranks, all on the first core. In a thread of its own, which becomes pinned.
Result<Answers> answers_of(std::size_t ranks, std::uint32_t max_length = 64, std::uint32_t max_guesses = 0,
                           const std::filesystem::path& draft = {}, engine::SpeculationCounts* counts = nullptr) {
  std::optional<Result<Answers>> answers;
  std::thread([&] {
    LocalReplicaOptions options = {.model = kTutor, .devices = {}, .batch = 3, .max_length = max_length};
    options.devices.assign(ranks, {.cores = {0}, .gpu = {}});
    options.limits.max_batch_tokens = 16;
    options.max_guesses = max_guesses;
    options.draft = draft;
    auto replica = LocalReplica::load(options);
    answers = replica.ok() ? serve(**replica) : Result<Answers>(replica.error());
    if (replica.ok() && counts != nullptr) *counts = (*replica)->speculation();
  }).join();
  return *std::move(answers);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(local_replica_suite)

BOOST_AUTO_TEST_CASE(every_request_gets_as_many_tokens_as_it_asked_for) {
  const auto answers = answers_of(1);
  BOOST_REQUIRE_MESSAGE(answers.ok(), answers.error().message);
  BOOST_TEST(answers->size() == 3u);
  for (const auto& [request, answer] : *answers) {
    BOOST_TEST(answer.tokens.size() == 12u);
    BOOST_TEST((answer.finish == schema::FinishReason::LENGTH));
  }
}

BOOST_AUTO_TEST_CASE(ranks_in_threads_of_one_process_give_the_same_answers_as_one_rank) {
  const auto one = answers_of(1);
  const auto two = answers_of(2);
  BOOST_REQUIRE_MESSAGE(one.ok(), one.error().message);
  BOOST_REQUIRE_MESSAGE(two.ok(), two.error().message);
  BOOST_REQUIRE(one->size() == two->size());
  for (const auto& [request, answer] : *one) BOOST_TEST(two->at(request).tokens == answer.tokens);
}

// The model's own kernels: a row of a wider step must have the very bits of a step of its own.
BOOST_AUTO_TEST_CASE(guesses_by_text_or_by_a_draft_leave_every_token_as_it_is) {
  const auto plain = answers_of(1);
  BOOST_REQUIRE_MESSAGE(plain.ok(), plain.error().message);
  for (const std::size_t ranks : {1, 2}) {
    for (const std::filesystem::path draft : {"", "examples/models/tutor-draft"}) {
      engine::SpeculationCounts counts;
      const auto guessed = answers_of(ranks, 64, 6, draft, &counts);
      BOOST_REQUIRE_MESSAGE(guessed.ok(), guessed.error().message);
      for (const auto& [request, answer] : *plain) BOOST_TEST(guessed->at(request).tokens == answer.tokens);
      if (!draft.empty()) BOOST_TEST(counts.accepted > 0u);
      if (!draft.empty()) BOOST_TEST(counts.accepted < counts.proposed);
    }
  }
}

BOOST_AUTO_TEST_CASE(more_ranks_than_the_model_has_heads_are_refused) {
  const auto answers = answers_of(9);
  BOOST_REQUIRE(!answers.ok());
  BOOST_TEST((answers.error().code == ErrorCode::kInvalidArgument));
  BOOST_TEST(answers.error().message.find("num_attention_heads") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_length_beyond_the_models_positions_is_refused) {
  const auto answers = answers_of(1, 1 << 20);
  BOOST_REQUIRE(!answers.ok());
  BOOST_TEST(answers.error().message.find("max_position_embeddings") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
