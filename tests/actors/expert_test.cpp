#include "actors/expert.h"

#include <boost/test/unit_test.hpp>
#include <caf/all.hpp>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "actors/expert_requests.h"
#include "actors/f32_matrix.h"
#include "actors/outcome.h"
#include "actors/stats.h"
#include "kernels/select.h"
#include "runtime/engine/error_info.h"
#include "runtime/fabric/message.h"
#include "runtime/model/config.h"
#include "runtime/model/expert_shard.h"
#include "schema/cluster.capnp.h"

using namespace troupe;
using namespace std::chrono_literals;
using fabric::make_message;
using fabric::Message;

namespace {

const std::string kModel = "examples/models/tutor-moe";
constexpr std::uint64_t kEpoch = 3;
constexpr std::uint32_t kHidden = 256;  // of that model, which has 8 experts, of which a token takes 2
constexpr std::uint32_t kMaxRows = 16;

using Dispatch = schema::Dispatch::Builder;

// A dispatch of the right shape: three rows to experts 4 to 7 of layer 2.
struct Question {
  std::uint32_t replica = 0;
  std::uint64_t epoch = kEpoch;
  std::uint32_t layer = 2;
  std::size_t rows = 3;
  std::size_t cols = kHidden;
  schema::DType dtype = schema::DType::F32;
  std::uint16_t attachment = 0;
  std::ptrdiff_t more_bytes = 0;  // of the attachment
  std::vector<std::uint32_t> pair_rows = {0, 2, 1, 0};
  std::vector<std::uint32_t> pair_experts = {4, 4, 5, 7};
  std::vector<float> pair_weights = {0.5f, 1.0f, 0.75f, 0.25f};

  std::vector<float> values() const {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    std::vector<float> values(rows * cols);
    for (float& value : values) value = normal(random);
    return values;
  }

  Message<schema::Dispatch> message() const {
    fabric::MessageBuilder<schema::Dispatch> builder;
    auto out = builder.root();
    out.initFence().setReplica(replica);
    out.getFence().setEpoch(epoch);
    out.getFence().setStep(9);
    out.setLayer(layer);
    out.setPairRows({pair_rows.data(), pair_rows.size()});
    out.setPairExperts({pair_experts.data(), pair_experts.size()});
    out.setPairWeights({pair_weights.data(), pair_weights.size()});
    const auto floats = values();
    const auto bytes = static_cast<std::ptrdiff_t>(floats.size() * sizeof(float)) + more_bytes;
    std::vector<std::byte> copy(static_cast<std::size_t>(bytes));
    std::memcpy(copy.data(), floats.data(), std::min(copy.size(), floats.size() * sizeof(float)));
    describe_matrix(rows, cols, builder.attach(fabric::Attachment::copy_of(copy)), out.initRows());
    out.getRows().setDtype(dtype);
    out.getRows().setAttachment(attachment);
    return std::move(builder).finish();
  }
};

// The second of two expert actors, on the first core.
struct Cast {
  explicit Cast(bool is_ready = true) : expert(spawn_expert(system, {.limits = {}, .node = "left", .incarnation = 1})) {
    if (!is_ready) return;
    const auto spawned = ask<schema::Spawned>(make_message<schema::Spawn>([](schema::Spawn::Builder out) {
      out.setActor("expert/0/0/1");
      out.initModel().setPath(kModel);
      out.getModel().setMaxBatchTokens(kMaxRows);
      auto spec = out.initExpert();
      spec.setExpert(1);
      spec.setExperts(2);
      spec.setFirstLayer(0);
      spec.setLastLayer(6);
      spec.setDevice("cpu:0");
    }));
    const auto reader = spawned.read();
    if (reader->isError()) BOOST_FAIL(reader->getError().getMessage().cStr());
    detail = reader->getReady().getDetail();
    assemble(kEpoch);
  }
  ~Cast() { caf::anon_send_exit(expert, caf::exit_reason::user_shutdown); }

  template <class Answer, class Request>
  Message<Answer> ask(const Message<Request>& request) {
    Message<Answer> result;
    self->request(expert, 60s, request)
        .receive([&](const Message<Answer>& answer) { result = answer; },
                 [&](const caf::error& error) { BOOST_FAIL(system.render(error)); });
    return result;
  }
  Message<schema::Combine> ask(const Question& question) { return ask<schema::Combine>(question.message()); }

  void assemble(std::uint64_t epoch) {
    const auto outcome = ask<schema::Outcome>(
        make_message<schema::Assemble>([&](schema::Assemble::Builder out) { out.setEpoch(epoch); }));
    BOOST_TEST(read_outcome(outcome).ok());
  }

  std::string metrics() {
    return render_metrics(read_families(*ask<schema::Stats>(make_message<schema::StatsRequest>([](auto) {})).read()));
  }

  caf::actor_system_config config;
  caf::actor_system system{config};
  caf::scoped_actor self{system};
  std::string detail;
  caf::actor expert;
};

// What these experts make of the rows of a question, without an actor.
std::vector<float> expected_sums(const Question& question) {
  std::vector<float> sum(question.rows * question.cols);
  std::thread([&] {  // which becomes pinned
    const auto config = model::load_config(kModel);
    const auto kernels = kernels::make_kernels({.cores = {0}, .gpu = {}});
    const auto experts = model::ExpertShard::load(
        kModel, *config, {.last_layer = 6, .num_layers = 6, .expert_shards = 2, .expert_shard = 1}, **kernels, {});
    auto values = question.values();
    const auto done = (*experts)->compute(question.layer, {values.data(), question.rows, question.cols},
                                          {question.pair_rows, question.pair_experts, question.pair_weights},
                                          {sum.data(), question.rows, question.cols});
    BOOST_TEST(done.ok());
  })
      .join();
  return sum;
}

void check_refused(Cast& cast, const Question& question, ErrorCode code, const std::string& hint) {
  const auto answer = cast.ask(question).read();
  BOOST_REQUIRE_MESSAGE(answer->getFailed(), hint);
  const Error error = engine::read_error(answer->getError());
  BOOST_TEST((error.code == code), to_string(error.code) << " instead of " << to_string(code) << ": " << hint);
  BOOST_TEST(error.message.find(hint) != std::string::npos, error.message);
  BOOST_TEST(answer->getLayer() == question.layer);
  BOOST_TEST(answer->getFence().getStep() == 9u);
}

std::vector<float> floats_of(const kernels::ConstMatrixF32& matrix) {
  return {matrix.data, matrix.data + matrix.rows * matrix.cols};
}

// Two parts of a layer: row 0 to expert actor 0, rows 1 and 2 to actor 1.
std::vector<model::DispatchedRows> two_parts() {
  return {{.expert_shard = 0, .rows = {0}, .pair_rows = {0}, .pair_experts = {1}, .pair_weights = {1}},
          {.expert_shard = 1, .rows = {1, 2}, .pair_rows = {0, 1}, .pair_experts = {5, 5}, .pair_weights = {1, 1}}};
}

Message<schema::Combine> combine_of(const Message<schema::Dispatch>& message, std::size_t rows, std::size_t cols,
                                    float value) {
  fabric::MessageBuilder<schema::Combine> combine;
  combine.root().setLayer(message.read()->getLayer());
  const kernels::MatrixF32 sum = attach_matrix(rows, cols, combine, combine.root().initRows());
  std::fill_n(sum.data, rows * cols, value);
  return std::move(combine).finish();
}

// An expert actor that answers with so many more rows than it was asked about, all of `value`.
caf::behavior constant_expert(caf::event_based_actor*, float value, std::size_t more_rows) {
  return {[=](const Message<schema::Dispatch>& message) {
    const auto shape = message.read()->getRows().getShape();
    return combine_of(message, shape[0] + more_rows, shape[1], value);
  }};
}

caf::behavior silent_expert(caf::event_based_actor* self) {
  return {[self](const Message<schema::Dispatch>&) {
    return self->make_response_promise<Message<schema::Combine>>();  // never delivered
  }};
}

// Asks two actors about two_parts().
struct Requests {
  Requests(caf::actor_system& system, caf::actor first, caf::actor second, std::chrono::milliseconds timeout = 60s)
      : requests(
            system,
            {.experts = {std::move(first), std::move(second)}, .replica = 0, .epoch = kEpoch, .timeout = timeout}) {
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
    const auto sent = requests.dispatch(4, {rows.data(), 3, 2}, two_parts());
    BOOST_TEST(sent.ok());
  }

  std::vector<float> rows = std::vector<float>(3 * 2);
  ExpertRequests requests;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(expert)

BOOST_AUTO_TEST_CASE(a_dispatch_is_answered_with_the_weighted_sums_of_its_rows) {
  Cast cast;
  BOOST_TEST(cast.detail.find("MB in ") != std::string::npos, cast.detail);
  const Question question;
  const auto answer = cast.ask(question);
  const auto reader = answer.read();
  BOOST_REQUIRE_MESSAGE(!reader->getFailed(), reader->getError().getMessage().cStr());
  BOOST_TEST(reader->getFence().getEpoch() == kEpoch);
  BOOST_TEST(reader->getFence().getStep() == 9u);
  BOOST_TEST(reader->getLayer() == 2u);
  const auto sums = read_matrix(reader->getRows(), answer.attachments(), 3, 3, kHidden, "the answer");
  BOOST_REQUIRE_MESSAGE(sums.ok(), sums.error().message);
  BOOST_TEST((floats_of(*sums) == expected_sums(question)));
  const std::string metrics = cast.metrics();
  const std::string labels = "{actor=\"expert/0/0/1\",node=\"left\"} ";
  BOOST_TEST(metrics.find("troupe_expert_rows_total" + labels + "3") != std::string::npos, metrics);
  BOOST_TEST(metrics.find("troupe_expert_pairs_total" + labels + "4") != std::string::npos);
  BOOST_TEST(metrics.find("troupe_expert_compute_seconds_total" + labels) != std::string::npos);
  BOOST_TEST(metrics.find("troupe_shard_arena_used_bytes{actor=\"expert/0/0/1\",arena=\"weights\"") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_dispatch_that_does_not_fit_is_an_error_in_the_answer_and_nothing_else) {
  Cast cast;
  constexpr auto kInvalid = ErrorCode::kInvalidArgument, kCorrupt = ErrorCode::kCorruptData;
  const auto check = [&](const std::function<void(Question&)>& spoil, ErrorCode code, const std::string& hint) {
    Question question;
    spoil(question);
    check_refused(cast, question, code, hint);
  };
  check([](Question& q) { q.layer = 6; }, kInvalid, "layer 6 has no experts here");
  check([](Question& q) { q.layer = 0xffffffff; }, kInvalid, "has no experts here");
  check([](Question& q) { q.pair_rows[1] = 3; }, kInvalid, "there is no row 3");
  check([](Question& q) { q.pair_rows[3] = 0xffffffff; }, kInvalid, "there is no row");
  check([](Question& q) { q.pair_experts[0] = 3; }, kInvalid, "expert 3 is not one of 4 to 7");
  check([](Question& q) { q.pair_experts[3] = 8; }, kInvalid, "expert 8 is not one of 4 to 7");
  check([](Question& q) { std::swap(q.pair_rows[0], q.pair_rows[1]); }, kInvalid, "does not come after");
  check([](Question& q) { std::swap(q.pair_experts[1], q.pair_experts[2]); }, kInvalid, "does not come after");
  check([](Question& q) { q.pair_weights.pop_back(); }, kInvalid, "4 pair rows, 4 experts and 3 weights");
  check([](Question& q) { q.pair_experts.push_back(7); }, kInvalid, "4 pair rows, 5 experts and 4 weights");
  check(
      [](Question& q) {
        q.pair_rows.assign(7, 0);
        q.pair_experts.assign(7, 4);
        q.pair_weights.assign(7, 1);
      },
      kInvalid, "7 pair rows");
  check([](Question& q) { q.rows = 0; }, kCorrupt, "is not an f32 tensor");
  check([](Question& q) { q.rows = kMaxRows + 1; }, kCorrupt, "is not an f32 tensor of (at most 16, 256)");
  check([](Question& q) { q.cols = kHidden - 1; }, kCorrupt, "is not an f32 tensor");
  check([](Question& q) { q.dtype = schema::DType::F16; }, kCorrupt, "is not an f32 tensor");
  check([](Question& q) { q.attachment = 1; }, kCorrupt, "names an attachment it lacks");
  check([](Question& q) { q.more_bytes = -4; }, kCorrupt, "holds 3068 bytes, expected 3072");
  check([](Question& q) { q.more_bytes = 4; }, kCorrupt, "holds 3076 bytes, expected 3072");
  BOOST_TEST(!cast.ask(Question{}).read()->getFailed());
  BOOST_TEST(cast.metrics().find("troupe_expert_refused_dispatches_total{actor=\"expert/0/0/1\",node=\"left\"} 18") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(another_epoch_is_told_so_and_not_computed) {
  Cast cast;
  check_refused(cast, {.epoch = kEpoch - 1}, ErrorCode::kCancelled, "this comes from epoch 2");
  check_refused(cast, {.epoch = kEpoch + 1}, ErrorCode::kCancelled, "this comes from epoch 4");
  check_refused(cast, {.replica = 1}, ErrorCode::kCancelled, "replica 1 lives in epoch 3");
  cast.assemble(kEpoch + 1);
  check_refused(cast, {}, ErrorCode::kCancelled, "lives in epoch 4");
  BOOST_TEST(cast.metrics().find("troupe_expert_rows_total{actor=\"expert/0/0/1\",node=\"left\"} 0") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(before_it_has_weights_it_says_so) {
  Cast cast(false);
  check_refused(cast, {}, ErrorCode::kUnavailable, "have not loaded their weights");
  const auto outcome = cast.ask<schema::Outcome>(
      make_message<schema::Assemble>([&](schema::Assemble::Builder out) { out.setEpoch(kEpoch); }));
  BOOST_TEST(!read_outcome(outcome).ok());
  const auto spawned = cast.ask<schema::Spawned>(make_message<schema::Spawn>([](schema::Spawn::Builder out) {
    out.initModel().setPath(kModel);
    auto spec = out.initExpert();
    spec.setExpert(0);
    spec.setExperts(9);
    spec.setLastLayer(6);
    spec.setDevice("cpu:0");
  }));
  BOOST_REQUIRE(spawned.read()->isError());
  BOOST_TEST(std::string(spawned.read()->getError().getMessage()).find("more than the 8 experts") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(answers_are_taken_in_the_order_of_the_parts_whenever_they_come) {
  caf::actor_system_config config;
  caf::actor_system system{config};
  Requests asked(system, system.spawn(constant_expert, 7.0f, std::size_t{0}),
                 system.spawn(constant_expert, 8.0f, std::size_t{0}));
  for (const std::size_t part : {0u, 1u}) {
    const auto made = asked.requests.combine(part);
    BOOST_REQUIRE_MESSAGE(made.ok(), made.error().message);
    BOOST_TEST((floats_of(*made) == std::vector<float>((part + 1) * 2, part == 0 ? 7.0f : 8.0f)));
  }
}

BOOST_AUTO_TEST_CASE(each_part_carries_its_own_rows_under_the_fence_of_the_step) {
  caf::actor_system_config config;
  caf::actor_system system{config};
  std::vector<std::string> seen;
  const auto witness = [&](caf::event_based_actor*) -> caf::behavior {
    return {[&](const Message<schema::Dispatch>& message) {
      const auto in = message.read();
      const auto rows = read_matrix(in->getRows(), message.attachments(), 1, 3, 2, "rows");
      seen.push_back(std::to_string(in->getFence().getEpoch()) + "/" + std::to_string(in->getFence().getStep()) + " " +
                     std::to_string(in->getLayer()) + ": " + std::to_string(rows->rows) + " from " +
                     std::to_string(rows->data[0]) + ", " + std::to_string(in->getPairRows().size()) + " pairs of " +
                     std::to_string(in->getPairExperts()[0]));
      return combine_of(message, rows->rows, 2, 0);
    }};
  };
  const caf::actor both = system.spawn(witness);
  Requests asked(system, both, both);
  BOOST_TEST(asked.requests.combine(0).ok());
  BOOST_TEST(asked.requests.combine(1).ok());
  asked.requests.begin_step(6);
  auto parts = two_parts();
  parts.pop_back();
  BOOST_TEST(asked.requests.dispatch(5, {asked.rows.data(), 3, 2}, parts).ok());
  BOOST_TEST(asked.requests.combine(0).ok());
  const std::vector<std::string> expected = {"3/0 4: 1 from 0.000000, 1 pairs of 1",
                                             "3/0 4: 2 from 2.000000, 2 pairs of 5",
                                             "3/6 5: 1 from 0.000000, 1 pairs of 1"};
  BOOST_TEST(seen == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_lost_silent_or_wrong_expert_is_an_error_that_names_it) {
  caf::actor_system_config config;
  caf::actor_system system{config};
  const auto good = [&] { return system.spawn(constant_expert, 7.0f, std::size_t{0}); };
  const auto check = [&](Requests& asked, ErrorCode code, const std::string& hint) {
    BOOST_TEST(asked.requests.combine(0).ok());
    const auto made = asked.requests.combine(1);
    BOOST_REQUIRE_MESSAGE(!made.ok(), hint);
    BOOST_TEST((made.error().code == code), made.error().message);
    BOOST_TEST(made.error().message.find("expert 1 of the stage") != std::string::npos, made.error().message);
    BOOST_TEST(made.error().message.find(hint) != std::string::npos, made.error().message);
  };
  const caf::actor silent = system.spawn(silent_expert);
  Requests unanswered(system, good(), silent, 200ms);
  check(unanswered, ErrorCode::kDeadlineExceeded, "limit step_timeout_ms");
  caf::anon_send_exit(silent, caf::exit_reason::user_shutdown);
  caf::scoped_actor(system)->wait_for(silent);
  Requests orphaned(system, good(), silent);
  check(orphaned, ErrorCode::kUnavailable, "no answer");
  Requests misled(system, good(), system.spawn(constant_expert, 7.0f, std::size_t{1}));
  check(misled, ErrorCode::kCorruptData, "is not an f32 tensor of (2, 2)");
}

BOOST_AUTO_TEST_CASE(what_an_expert_reports_reaches_the_rank_with_its_kind) {
  Cast cast;
  Requests asked(cast.system, cast.expert, cast.expert);  // rows of 2 elements
  const auto made = asked.requests.combine(0);
  BOOST_REQUIRE(!made.ok());
  BOOST_TEST((made.error().code == ErrorCode::kCorruptData));
  BOOST_TEST(made.error().message.find("expert 0 of the stage: a dispatch is not an f32 tensor") != std::string::npos,
             made.error().message);
}

BOOST_AUTO_TEST_SUITE_END()
