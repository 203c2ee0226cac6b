#include "actors/draft_compute.h"

#include <capnp/message.h>

#include <boost/test/unit_test.hpp>
#include <functional>
#include <thread>

using namespace troupe;

namespace {

using Tokens = std::vector<std::uint32_t>;

constexpr std::uint32_t kGuesses = 4;

struct Told {
  std::uint64_t sequence = 0;
  std::uint32_t start = 0;
  Tokens tokens;
};

struct Reply {
  Tokens lengths;
  std::vector<Tokens> guesses;
  std::string error;
};

DraftComputeOptions small_options() {
  return {.model = "examples/models/tutor-draft",
          .guesses_for = "examples/models/tutor",
          .device = {.cores = {0}},
          .num_blocks = 64,
          .block_size = 4,
          .max_model_len = 128,
          .max_batch_tokens = 8,
          .max_batch_sequences = 3,
          .max_sequences = 5};
}

Reply ask(DraftCompute& draft, const std::vector<Told>& told, const std::vector<std::uint64_t>& released = {},
          const std::function<void(schema::DraftRequest::Builder)>& spoil = {}) {
  capnp::MallocMessageBuilder message, answer;
  auto request = message.initRoot<schema::DraftRequest>();
  const auto size = static_cast<unsigned>(told.size());
  request.initSequences(size);
  request.initStartPositions(size);
  request.initTokenCounts(size);
  request.setReleased({released.data(), released.size()});
  Tokens tokens;
  for (unsigned i = 0; i < size; ++i) {
    request.getSequences().set(i, told[i].sequence);
    request.getStartPositions().set(i, told[i].start);
    request.getTokenCounts().set(i, static_cast<std::uint32_t>(told[i].tokens.size()));
    tokens.insert(tokens.end(), told[i].tokens.begin(), told[i].tokens.end());
  }
  request.setTokens({tokens.data(), tokens.size()});
  request.setGuesses(kGuesses);
  if (spoil) spoil(request);
  auto to = answer.initRoot<schema::DraftReply>();
  const Result<void> done = draft.guess(request.asReader(), to);
  if (!done.ok()) return {.lengths = {}, .guesses = {}, .error = done.error().message};
  Reply reply;
  unsigned next = 0;
  for (unsigned i = 0; i < to.getLengths().size(); ++i) {
    reply.lengths.push_back(to.getLengths()[i]);
    Tokens& guesses = reply.guesses.emplace_back();
    for (std::uint32_t k = 0; k < to.getGuessCounts()[i]; ++k) guesses.push_back(to.getTokens()[next++]);
  }
  BOOST_TEST(next == to.getTokens().size());
  return reply;
}

Tokens text(std::uint32_t length, std::uint32_t salt) {
  Tokens tokens;
  for (std::uint32_t i = 0; i < length; ++i) tokens.push_back(100 + (37 * i + 11 * salt * i * i + salt) % 900);
  return tokens;
}

Tokens joined(Tokens tokens, const Tokens& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

// In a thread of its own, which becomes pinned.
void with_draft(const DraftComputeOptions& options, const std::function<void(DraftCompute&)>& test) {
  std::thread([&] {
    auto draft = DraftCompute::load(options, Limits{});
    BOOST_REQUIRE_MESSAGE(draft.ok(), (draft.ok() ? "" : draft.error().message));
    test(**draft);
  }).join();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(draft_compute)

BOOST_AUTO_TEST_CASE(guesses_are_those_of_a_draft_that_reads_everything_anew) {
  with_draft(small_options(), [](DraftCompute& draft) {
    // A text longer than a pass, two that grow beside it, with guesses that come true, in part and not at all.
    Tokens a = text(30, 1), b = text(5, 2), c = text(12, 3);
    Reply first = ask(draft, {{1, 0, a}, {2, 0, b}, {3, 0, c}});
    BOOST_TEST(first.lengths == (Tokens{30, 5, 12}));
    for (const std::size_t right : {4, 2, 0, 3, 1}) {
      std::vector<Told> told;
      for (std::size_t i = 0; i < 3; ++i) {
        Tokens& tokens = i == 0 ? a : i == 1 ? b : c;
        const std::size_t true_ones = std::min((right + i) % 5, first.guesses[i].size());
        Tokens news(first.guesses[i].begin(), first.guesses[i].begin() + static_cast<std::ptrdiff_t>(true_ones));
        news.push_back(400 + static_cast<std::uint32_t>(right));
        told.push_back({i + 1, static_cast<std::uint32_t>(tokens.size()), news});
        tokens = joined(tokens, news);
      }
      const Reply grown = ask(draft, told);
      draft.clear();
      BOOST_TEST(draft.known_sequences() == 0u);
      const Reply anew = ask(draft, {{3, 0, c}, {1, 0, a}});
      const Reply alone = ask(draft, {{2, 0, b}});
      BOOST_TEST(grown.guesses[0] == anew.guesses[1]);
      BOOST_TEST(grown.guesses[1] == alone.guesses[0]);
      BOOST_TEST(grown.guesses[2] == anew.guesses[0]);
      first = grown;
    }
  });
}

BOOST_AUTO_TEST_CASE(what_it_does_not_know_it_says) {
  with_draft(small_options(), [](DraftCompute& draft) {
    const Reply unknown = ask(draft, {{1, 3, text(4, 1)}, {2, 0, text(4, 2)}});
    BOOST_TEST(unknown.lengths == (Tokens{0, 4}));
    BOOST_TEST(unknown.guesses[0].empty());
    BOOST_TEST(!unknown.guesses[1].empty());
    BOOST_TEST(draft.known_sequences() == 1u);
    BOOST_TEST(ask(draft, {{2, 4, text(1, 5)}}, {2}).lengths == (Tokens{0}));
    BOOST_TEST(draft.known_sequences() == 0u);
    // Longer than max_model_len once guesses are added.
    BOOST_TEST(ask(draft, {{1, 0, text(126, 1)}}).lengths == (Tokens{0}));
    BOOST_TEST(ask(draft, {{1, 0, text(125, 1)}}).lengths == (Tokens{125}));
  });
}

BOOST_AUTO_TEST_CASE(who_was_asked_about_longest_ago_makes_room) {
  DraftComputeOptions options = small_options();
  options.num_blocks = 8;
  with_draft(options, [](DraftCompute& draft) {
    ask(draft, {{1, 0, text(9, 1)}});  // 3 blocks with its guesses
    ask(draft, {{2, 0, text(9, 2)}});
    BOOST_TEST(draft.known_sequences() == 2u);
    BOOST_TEST(ask(draft, {{3, 0, text(9, 3)}}).lengths == (Tokens{9}));
    BOOST_TEST(draft.known_sequences() == 2u);
    BOOST_TEST(ask(draft, {{1, 9, text(1, 1)}, {2, 9, text(1, 2)}}).lengths == (Tokens{0, 10}));
    // Those of one request do not drive out one another.
    const Reply three = ask(draft, {{4, 0, text(9, 4)}, {5, 0, text(9, 5)}, {6, 0, text(9, 6)}});
    BOOST_TEST(three.lengths == (Tokens{9, 9, 0}));
  });
  with_draft(small_options(), [](DraftCompute& draft) {
    for (std::uint64_t sequence = 1; sequence <= 20; ++sequence) ask(draft, {{sequence, 0, text(2, 1)}});
    BOOST_TEST(draft.known_sequences() == 5u);
  });
}

BOOST_AUTO_TEST_CASE(a_request_that_contradicts_itself_is_refused_and_the_draft_works_on) {
  with_draft(small_options(), [](DraftCompute& draft) {
    const std::vector<Told> two = {{1, 0, text(3, 1)}, {2, 0, text(3, 2)}};
    const auto refused = [&](const std::function<void(schema::DraftRequest::Builder)>& spoil) {
      BOOST_TEST(!ask(draft, two, {}, spoil).error.empty());
      BOOST_TEST(ask(draft, two).lengths == (Tokens{3, 3}));
    };
    refused([](auto request) { request.initStartPositions(1); });
    refused([](auto request) { request.initTokenCounts(3); });
    refused([](auto request) { request.getTokenCounts().set(0, 0); });
    refused([](auto request) { request.getTokenCounts().set(0, 0xffffffff); });
    refused([](auto request) { request.getTokens().set(5, 1664); });
    refused([](auto request) { request.getSequences().set(1, 1); });
    refused([](auto request) { request.initSequences(6); });
    const auto harmless = [&](const std::function<void(schema::DraftRequest::Builder)>& spoil) {
      BOOST_TEST(ask(draft, two, {}, spoil).error.empty());
    };
    harmless([](auto request) { request.setGuesses(0xffffffff); });
    harmless([](auto request) { request.setGuesses(0); });  // it only reads
    harmless([](auto request) { request.getStartPositions().set(0, 0xffffffff); });
  });
}

BOOST_AUTO_TEST_SUITE_END()
