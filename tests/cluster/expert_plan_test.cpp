#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>

#include "cluster/kv_share.h"
#include "cluster/plan.h"
#include "runtime/model/slice.h"
#include "tests/cluster/planning.h"

// Plans with expert actors.
namespace troupe::cluster::testing {
namespace {

// Layers 0 and 1 have no experts.
model::ModelConfig with_experts() {
  model::ModelConfig config = tutor_like();
  config.num_experts = 8;
  config.num_experts_per_token = 2;
  config.dense_layers = {true, true, false, false, false, false};
  config.dense_intermediate_size = 320;
  return config;
}

Planning planning_of_experts(const std::string& text, const model::ModelConfig& config = with_experts()) {
  Machine machine;
  machine.cores.resize(8);
  std::iota(machine.cores.begin(), machine.cores.end(), 0);
  return make_plan(config, topology(text), machine);
}

}  // namespace

BOOST_AUTO_TEST_CASE(expert_actors_take_the_devices_behind_the_shards) {
  const auto planned = planning_of_experts(kFour + "parallel: {tensor: 2, expert: 2}\n");
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  BOOST_TEST(planned.diagnostics.size() == 0u);
  for (const std::uint32_t number : {0u, 1u}) {
    const PlannedActor* expert = planned.plan->find("expert/0/0/" + std::to_string(number));
    BOOST_TEST_REQUIRE(expert != nullptr);
    BOOST_TEST((expert->kind == PlannedActor::Kind::kExpert));
    BOOST_TEST(expert->node == "b");
    BOOST_TEST(expert->device->to_string() == "cpu:" + std::to_string(2 + number));
    BOOST_TEST(expert->expert == number);
    BOOST_TEST(expert->experts == 2u);
    BOOST_TEST(expert->last_layer == 6u);
    BOOST_TEST(expert->kv_bytes == 0u);
    BOOST_TEST(expert->scratch_bytes > 0u);
    BOOST_TEST(planned.plan->find("shard/0/0/" + std::to_string(number))->experts == 2u);
  }
}

BOOST_AUTO_TEST_CASE(expert_actors_lie_beside_the_shards_where_no_device_is_left) {
  const auto planned = planning_of_experts("nodes: [{name: a, devices: [cpu:0-3]}]\nparallel: {expert: 2}\n");
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  BOOST_TEST(planned.plan->find("shard/0/0/0")->device->to_string() == "cpu:0-3");
  BOOST_TEST(planned.plan->find("expert/0/0/0")->device->to_string() == "cpu:0-1");
  BOOST_TEST(planned.plan->find("expert/0/0/1")->device->to_string() == "cpu:2-3");
  BOOST_TEST_REQUIRE(planned.diagnostics.size() == 2u);
  BOOST_TEST(planned.diagnostics[0].message == "core 0 is shared by shard/0/0/0 and expert/0/0/0");
}

BOOST_AUTO_TEST_CASE(of_many_actors_that_share_a_core_the_first_few_are_named) {
  const auto planned = planning_of_experts("nodes: [{name: a, devices: [cpu:0]}]\nparallel: {expert: 7}\n");
  BOOST_TEST_REQUIRE(planned.diagnostics.size() == 1u);
  BOOST_TEST(planned.diagnostics[0].message ==
             "core 0 is shared by shard/0/0/0, expert/0/0/0, expert/0/0/1, expert/0/0/2, expert/0/0/3 and 3 others");
}

BOOST_AUTO_TEST_CASE(each_replica_has_experts_in_the_stages_that_have_some) {
  const auto planned = planning_of_experts(kFour + "parallel: {replicas: 2, pipeline: 3, expert: 3}\n");
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  std::uint32_t experts = 0;
  for (const PlannedActor& actor : planned.plan->actors) {
    if (actor.kind == PlannedActor::Kind::kExpert) ++experts;
  }
  BOOST_TEST(experts == 2u * 2 * 3);
  BOOST_TEST(planned.plan->find("expert/0/0/0") == nullptr);
  BOOST_TEST(planned.plan->find("shard/0/0/0")->experts == 0u);
  const PlannedActor* last = planned.plan->find("expert/1/2/2");
  BOOST_TEST_REQUIRE(last != nullptr);
  BOOST_TEST(last->replica == 1u);
  BOOST_TEST(last->stages == 3u);
  BOOST_TEST(last->first_layer == 4u);
}

BOOST_AUTO_TEST_CASE(the_weights_of_shards_and_experts_together_are_the_models) {
  const auto planned =
      planning_of_experts(kFour +
                          "place:\n  stages:\n    - {layers: 0-1, shards: [a/cpu:0]}\n"
                          "    - {layers: 2-5, shards: [a/cpu:0], experts: [a/cpu:1, b/cpu:2, b/cpu:3]}\n");
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  std::uint64_t sum = 0;
  for (const PlannedActor& actor : planned.plan->actors) sum += actor.weight_bytes;
  BOOST_TEST(sum == model::weight_bytes(with_experts(), {0, 6, 6, 0, 1}));
  const PlannedActor& expert = *planned.plan->find("expert/0/1/2");
  BOOST_TEST(expert.weight_bytes == 4u * 3 * 3 * 64 * 160 * 2);  // layers, experts, matrices, in BF16
  BOOST_TEST(expert.reason == "placed by the file");
}

// Of 8 experts, of which a token takes 2, an actor with 4 has neither in C(4,2) of C(8,2) cases.
BOOST_AUTO_TEST_CASE(links_to_experts_carry_the_rows_that_are_to_be_expected) {
  const auto planned = planning_of_experts(
      kFour + "place:\n  stages:\n    - {layers: 0-5, shards: [a/cpu:0, a/cpu:1], experts: [b/cpu:2, b/cpu:3]}\n");
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  const double rows = 4 * (1 - 6.0 / 28);  // of 4 layers
  std::map<std::string, std::uint64_t> bytes;
  for (const PlannedLink& link : planned.plan->links) {
    if (link.what != "dispatch" && link.what != "combine") continue;
    BOOST_TEST(link.crosses_nodes);
    bytes[link.what + " " + link.from + " " + link.to] = link.bytes_per_token;
  }
  BOOST_TEST(bytes.size() == 4u);
  for (const std::string number : {"0", "1"}) {
    const std::string shard = "shard/0/0/" + number, expert = "expert/0/0/" + number;
    BOOST_TEST(bytes["combine " + expert + " " + shard] == std::llround(rows * 64 * 4));
    BOOST_TEST(bytes["dispatch " + shard + " " + expert] == std::llround(rows * 64 * 4 + 4 * 1 * 12));
  }
}

BOOST_AUTO_TEST_CASE(the_prediction_counts_the_experts_that_a_token_takes_behind_the_shards) {
  const std::string place = kFour + "place:\n  stages:\n    - {layers: 0-5, shards: [a/cpu:0]";
  const auto alone = planning_of_experts(place + "}\n");
  const auto one = planning_of_experts(place + ", experts: [b/cpu:2]}\n");
  const auto two = planning_of_experts(place + ", experts: [b/cpu:2, b/cpu:3]}\n");
  BOOST_TEST_REQUIRE((alone.plan && one.plan && two.plan));
  BOOST_TEST(one.plan->tokens_per_second == alone.plan->tokens_per_second, boost::test_tools::tolerance(1e-9));
  const double taken = 4.0 * 2 * 3 * 64 * 160 * 2 / 8e9;  // seconds: of 4 layers, 2 experts of 3 BF16 matrices
  BOOST_TEST(1 / one.plan->tokens_per_second - 1 / two.plan->tokens_per_second == taken / 2,
             boost::test_tools::tolerance(1e-6));
  BOOST_TEST(two.plan->prediction_basis.find("experts chosen equally often") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(expert_actors_that_the_model_cannot_have_are_errors_with_their_place) {
  const std::string place = kFour + "place:\n  stages:\n    - {layers: 0-1, shards: [a/cpu:0]";
  BOOST_TEST(
      only_finding(planning_of_experts(place + ", experts: [b/cpu:2]}\n    - {layers: 2-5, shards: [a/cpu:1]}\n")) ==
      "t.yaml:5:50: stage 0 cannot have these expert actors: none of the layers 0 to 1 has experts that expert "
      "shards could hold; leave them out");
  std::string nine = "b/cpu:2";
  for (int i = 1; i < 9; ++i) nine += ", b/cpu:2";
  const auto many = planning_of_experts(place + "}\n    - {layers: 2-5, shards: [a/cpu:1], experts: [" + nine + "]}\n");
  BOOST_TEST(!many.plan.has_value());
  BOOST_TEST(many.diagnostics.front().to_string("t.yaml") ==
             "t.yaml:6:50: stage 1 cannot have these expert actors: 9 expert shards are more than the 8 experts of a "
             "layer; use at most 8");
  BOOST_TEST(only_finding(planning_of_experts(kFour + "parallel: {expert: 2}\n", tutor_like())) ==
             "t.yaml:3:20: the model has no experts; leave `expert` out, or write 1");
  BOOST_TEST(only_finding(
                 planning_of_experts(
                     kFour + "place: {stages: [{layers: 0-5, shards: [a/cpu:0], experts: [b/cpu:2]}]}\n", tutor_like()))
                 .starts_with("t.yaml:3:61: stage 0 cannot have these expert actors: the model has no experts"));
  BOOST_TEST(
      only_finding(planning_of_experts(kFour + "lookahead: on\nplace: {stages: [{layers: 0-5, shards: "
                                               "[a/cpu:0], experts: [b/cpu:2]}]}\n"))
          .starts_with("t.yaml:3:12: lookahead: on needs replicas of one shard, but replica 0 has expert actors"));
}

BOOST_AUTO_TEST_CASE(experts_on_a_gpu_are_counted_and_leave_the_rest_to_pages) {
  const model::ModelConfig config = with_experts();
  const std::string place =
      "nodes: [{name: a, devices: [cuda:0, cpu:0]}]\nlimits: {max_batch_tokens: 64%}\n"
      "place: {stages: [{layers: 0-5, shards: [a/SHARD], experts: [a/cuda:0]}]}\n";
  const auto plan = [&](const std::string& shard, const std::string& kv, std::uint64_t bytes) {
    std::string text = place;
    text.replace(text.find("SHARD"), 5, shard);
    text.replace(text.find('%'), 1, kv);
    return make_plan(config, topology(text), with_gpus(bytes));
  };
  const auto planned = plan("cpu:0", "", 8ull << 30);
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  const PlannedActor& expert = *planned.plan->find("expert/0/0/0");
  BOOST_TEST(expert.host_bytes > 0u);
  BOOST_TEST(!planned.plan->find("scheduler/0")->lookahead);
  const std::uint64_t bytes = expert.weight_bytes + expert.scratch_bytes;
  BOOST_TEST(plan("cpu:0", "", bytes).plan.has_value());
  BOOST_TEST(!plan("cpu:0", "", bytes - 1).plan.has_value());
  // Beside a shard: its pages take what both leave, less a reserve for each.
  const auto beside = plan("cuda:0", "", 2 * kGpuReserveBytes + (64ull << 20));
  BOOST_TEST_REQUIRE(beside.plan.has_value());
  BOOST_TEST(!beside.plan->find("scheduler/0")->lookahead);
  std::uint64_t taken = 0;
  for (const PlannedActor& actor : beside.plan->actors)
    taken += actor.weight_bytes + actor.kv_bytes + actor.scratch_bytes;
  BOOST_TEST(taken <= 64ull << 20);
}

}  // namespace troupe::cluster::testing
