#include "cluster/plan.h"
#include "cluster/plan_memory.h"

#include <numeric>
#include <string>

#include <boost/test/unit_test.hpp>

#include "cluster/kv_share.h"
#include "runtime/model/config.h"
#include "runtime/model/scratch.h"
#include "runtime/model/slice.h"
#include "tests/cluster/planning.h"

namespace troupe::cluster::testing {
namespace {

Planning planning(const std::string& text, std::uint32_t cores = 8) {
  Machine machine;
  machine.cores.resize(cores);
  std::iota(machine.cores.begin(), machine.cores.end(), 0);
  return make_plan(tutor_like(), topology(text), machine);
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_layer_runs_exactly_once_for_every_split) {
  for (std::uint32_t stages = 1; stages <= 6; ++stages) {
    for (const std::uint32_t ranks : {1u, 2u, 4u}) {
      const auto planned = planning(kFour + "parallel: {pipeline: " + std::to_string(stages) +
                                    ", tensor: " + std::to_string(ranks) + "}\n");
      BOOST_TEST_REQUIRE(planned.plan.has_value());
      std::uint32_t next = 0;
      std::uint32_t shards = 0;
      for (const PlannedActor& actor : planned.plan->actors) {
        if (actor.kind == PlannedActor::Kind::kShard) ++shards;
        if (actor.kind != PlannedActor::Kind::kStage) continue;
        BOOST_TEST(actor.first_layer == next);
        next = actor.last_layer;
        const std::string rank0 = "shard/0/" + std::to_string(actor.stage) + "/0";
        BOOST_TEST_REQUIRE(planned.plan->find(rank0) != nullptr);
        BOOST_TEST(planned.plan->find(rank0)->node == actor.node);
      }
      BOOST_TEST(next == 6u);
      BOOST_TEST(shards == stages * ranks);
    }
  }
}

BOOST_AUTO_TEST_CASE(the_stages_weights_together_are_the_models) {
  const auto config = tutor_like();
  const std::uint64_t whole = model::weight_bytes(config, {0, 6, 6, 0, 1});
  const auto planned = planning(kFour + "parallel: {pipeline: 4}\n");
  std::uint64_t sum = 0;
  for (const PlannedActor& actor : planned.plan->actors) sum += actor.weight_bytes;
  BOOST_TEST(sum == whole);
}

BOOST_AUTO_TEST_CASE(uneven_layers_give_the_remainder_to_earlier_stages) {
  const auto planned = planning(kFour + "parallel: {pipeline: 4}\n");
  BOOST_TEST(planned.plan->find("stage/0/0")->last_layer == 2u);
  BOOST_TEST(planned.plan->find("stage/0/1")->last_layer == 4u);
  BOOST_TEST(planned.plan->find("stage/0/2")->last_layer == 5u);
}

BOOST_AUTO_TEST_CASE(ranks_of_a_stage_stay_on_one_node_where_they_fit) {
  const auto planned = planning(kFour + "parallel: {pipeline: 2, tensor: 2}\n");
  BOOST_TEST(planned.plan->find("shard/0/0/1")->node == "a");
  BOOST_TEST(planned.plan->find("shard/0/1/0")->node == "b");
  for (const PlannedLink& link : planned.plan->links) {
    BOOST_TEST(!(link.what == "all-reduce" && link.crosses_nodes));
    if (link.what == "activation") BOOST_TEST(link.crosses_nodes);
  }
}

BOOST_AUTO_TEST_CASE(a_range_of_cores_is_shared_out_among_more_shards_than_devices) {
  const auto planned = planning("nodes: [{name: a, devices: [cpu:0-5]}]\nparallel: {tensor: 4}\n");
  BOOST_TEST(planned.diagnostics.size() == 0u);
  std::uint32_t cores = 0;
  for (int rank = 0; rank < 4; ++rank) {
    cores += planned.plan->find("shard/0/0/" + std::to_string(rank))->device->cores();
  }
  BOOST_TEST(cores == 6u);
}

BOOST_AUTO_TEST_CASE(stages_may_have_different_numbers_of_shards) {
  const auto planned = planning(kFour +
                                "place:\n  stages:\n    - {layers: 0-3, shards: [a/cpu:0, b/cpu:2]}\n"
                                "    - {layers: 4-5, shards: [b/cpu:3]}\n");
  BOOST_TEST(planned.diagnostics.size() == 0u);
  BOOST_TEST(planned.plan->find("shard/0/0/1")->ranks == 2u);
  BOOST_TEST(planned.plan->find("shard/0/1/0")->ranks == 1u);
}

BOOST_AUTO_TEST_CASE(every_replica_is_whole_and_has_its_own_scheduler) {
  const auto planned = planning(kFour + "parallel: {replicas: 2, pipeline: 2}\n");
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  BOOST_TEST(planned.plan->replicas == 2u);
  BOOST_TEST(planned.plan->stages == 4u);
  for (const std::uint32_t replica : {0u, 1u}) {
    const std::string number = std::to_string(replica);
    const std::string node = replica == 0 ? "a" : "b";
    std::uint32_t next = 0;
    for (const PlannedActor& actor : planned.plan->actors) {
      if (actor.kind == PlannedActor::Kind::kGateway || actor.replica != replica) continue;
      BOOST_TEST(actor.node == node);
      BOOST_TEST(actor.stages == 2u);
      if (actor.kind != PlannedActor::Kind::kStage) continue;
      BOOST_TEST(actor.first_layer == next);
      next = actor.last_layer;
    }
    BOOST_TEST(next == 6u);
    BOOST_TEST(planned.plan->find("scheduler/" + number)->reason == "beside its stage 0");
    BOOST_TEST(planned.plan->find("shard/" + number + "/1/0") != nullptr);
  }
  for (const PlannedLink& link : planned.plan->links) {
    if (link.what == "activation") BOOST_TEST(link.from.substr(0, 7) == link.to.substr(0, 7));
  }
}

BOOST_AUTO_TEST_CASE(replicas_may_be_cut_differently) {
  const auto planned = planning(kFour +
                                "place:\n  stages:\n    - {layers: 0-5, shards: [a/cpu:0, a/cpu:1]}\n"
                                "    - {replica: 1, layers: 0-3, shards: [b/cpu:2]}\n"
                                "    - {replica: 1, layers: 4-5, shards: [b/cpu:3]}\n");
  BOOST_TEST(planned.diagnostics.size() == 0u);
  BOOST_TEST(planned.plan->find("scheduler/0")->stages == 1u);
  BOOST_TEST(planned.plan->find("scheduler/1")->stages == 2u);
  BOOST_TEST(planned.plan->find("shard/0/0/1")->ranks == 2u);
  BOOST_TEST(planned.plan->find("shard/1/1/0")->first_layer == 4u);
  const std::string place = kFour + "place:\n  stages:\n    - {layers: 0-4, shards: [a/cpu:0]}\n";
  BOOST_TEST(only_finding(planning(place + "    - {replica: 1, layers: 0-5, shards: [b/cpu:2]}\n")) ==
             "t.yaml:5:16: layer 5 of the model belongs to no stage; it has 6 layers");
}

BOOST_AUTO_TEST_CASE(shared_cores_and_idle_nodes_are_warnings) {
  const auto planned = planning(
      "nodes:\n  - {name: a, devices: [cpu:0]}\n  - {name: b, devices: [cpu:0, cpu:1]}\n  - {name: c}\n"
      "parallel: {pipeline: 3}\n",
      2);
  BOOST_TEST(planned.plan.has_value());
  BOOST_TEST_REQUIRE(planned.diagnostics.size() == 2u);
  BOOST_TEST(planned.diagnostics[0].to_string("t.yaml") ==
             "t.yaml:4:25: warning: core 0 is shared by shard/0/0/0 and shard/0/1/0");
  BOOST_TEST(planned.diagnostics[1].to_string("t.yaml") == "t.yaml:5:12: warning: nothing runs on node 'c'");
}

BOOST_AUTO_TEST_CASE(a_core_that_is_not_there_is_an_error_that_names_those_that_are) {
  const std::string nodes = "nodes:\n  - {name: a, devices: [cpu:0]}\n  - {name: b, devices: [cpu:4-6]}\n";
  BOOST_TEST(only_finding(planning(nodes + "parallel: {pipeline: 2}\n", 2)) ==
             "t.yaml:4:25: shard/0/1/0 on cpu:4-6: there is no core 4 for it; use cpu:0-1");
  Machine machine;
  machine.cores = {0, 2, 3, 4, 5};  // the others are closed to the process
  BOOST_TEST(only_finding(make_plan(tutor_like(), topology(nodes + "parallel: {pipeline: 2}\n"), machine)) ==
             "t.yaml:4:25: shard/0/1/0 on cpu:4-6: there is no core 6 for it; use cpu:0 or cpu:2-5");
}

BOOST_AUTO_TEST_CASE(stages_that_do_not_suit_the_models_layers_are_errors) {
  const std::string place = kFour + "place:\n  stages:\n    - {layers: 0-2, shards: [a/cpu:0]}\n";
  BOOST_TEST(only_finding(planning(place)) ==
             "t.yaml:5:16: layers 3-5 of the model belong to no stage; it has 6 layers");
  BOOST_TEST(only_finding(planning(place + "    - {layers: 3-7, shards: [b/cpu:2]}\n")) ==
             "t.yaml:6:16: layers 3-7 go beyond the model's 6 layers (0-5)");
  BOOST_TEST(only_finding(planning(kFour + "parallel: {pipeline: 7}\n")) ==
             "t.yaml:3:22: 7 stages for a model of 6 layers; a stage has at least one layer");
}

BOOST_AUTO_TEST_CASE(ranks_that_the_model_cannot_be_cut_into_are_an_error) {
  const std::string found =
      only_finding(planning("nodes: [{name: a, devices: [cpu:0-15]}]\nparallel: {tensor: 16}\n", 16));
  BOOST_TEST(found.starts_with("t.yaml:3:20: stage 0 cannot be cut into 16 shard(s): "));
}

BOOST_AUTO_TEST_CASE(shards_run_on_gpus_and_share_one) {
  const std::string one = "nodes: [{name: a, devices: [cuda:0]}]\n";
  const auto alone = make_plan(tutor_like(), topology(one), with_gpus(8ull << 30));
  BOOST_TEST_REQUIRE(alone.plan.has_value());
  BOOST_TEST(alone.plan->find("shard/0/0/0")->device->to_string() == "cuda:0");
  const auto shared = make_plan(tutor_like(), topology(one + "parallel: {tensor: 2}\n"), with_gpus(8ull << 30));
  BOOST_TEST_REQUIRE(shared.plan.has_value());
  BOOST_TEST(only_finding(shared) == "t.yaml:2:29: warning: cuda:0 is shared by shard/0/0/0 and shard/0/0/1");
  const auto mixed =
      make_plan(tutor_like(), topology("nodes: [{name: a, devices: [cuda:0, cpu:0]}]\nparallel: {pipeline: 2}\n"),
                with_gpus(8ull << 30));
  BOOST_TEST_REQUIRE(mixed.plan.has_value());
  BOOST_TEST(mixed.plan->tokens_per_second < alone.plan->tokens_per_second);
}

BOOST_AUTO_TEST_CASE(a_replica_that_is_one_shard_looks_ahead_on_a_gpu_or_where_it_is_told_to) {
  const auto looks_ahead = [](const std::string& device, const std::string& more) {
    const auto planned = make_plan(tutor_like(), topology("nodes: [{name: a, devices: [" + device + "]}]\n" + more),
                                   with_gpus(8ull << 30));
    BOOST_TEST_REQUIRE(planned.plan.has_value());
    return planned.plan->find("scheduler/0")->lookahead;
  };
  BOOST_TEST(looks_ahead("cuda:0", ""));
  BOOST_TEST(!looks_ahead("cuda:0", "lookahead: off\n"));
  BOOST_TEST(!looks_ahead("cuda:0", "parallel: {tensor: 2}\n"));
  BOOST_TEST(!looks_ahead("cuda:0", "parallel: {pipeline: 2}\n"));
  BOOST_TEST(!looks_ahead("cpu:0", ""));
  BOOST_TEST(looks_ahead("cpu:0", "lookahead: on\n"));
  for (const std::string parallel : {"tensor", "pipeline"}) {
    BOOST_TEST(only_finding(planning(kFour + "lookahead: on\nparallel: {" + parallel + ": 2, replicas: 1}\n")) ==
               "t.yaml:3:12: lookahead: on needs replicas of one shard, but replica 0 has more; write auto, or give it "
               "one stage of one shard");
  }
}

BOOST_AUTO_TEST_CASE(gpus_that_are_missing_too_old_or_too_small_are_errors_with_a_remedy) {
  const auto found = [](const std::string& device, const Machine& machine) {
    return only_finding(make_plan(tutor_like(), topology("nodes: [{name: a, devices: [" + device + "]}]\n"), machine));
  };
  Machine without;
  without.why_no_gpus = "there is no driver; install one";
  BOOST_TEST(found("cuda:0", without) == "t.yaml:2:29: shard/0/0/0 on cuda:0: there is no driver; install one");
  BOOST_TEST(found("cuda:2", with_gpus(8ull << 30)) ==
             "t.yaml:2:29: shard/0/0/0 on cuda:2: there are 2 GPUs, from cuda:0 on");
  BOOST_TEST(found("cuda:1", with_gpus(8ull << 30)) ==
             "t.yaml:2:29: shard/0/0/0 on cuda:1: this GPU, old, has compute capability 7.5; the kernels need 8.0 "
             "(Ampere) or newer; use cpu:N");
  model::ModelConfig wide = tutor_like();
  wide.head_dim = 320;
  BOOST_TEST(
      only_finding(make_plan(wide, topology("nodes: [{name: a, devices: [cuda:0]}]\n"), with_gpus(8ull << 30))) ==
      "t.yaml:2:29: shard/0/0/0 on cuda:0: the model's head_dim is 320, and kernels for GPUs take up to 256; use "
      "cpu:N");
  BOOST_TEST(
      found("cuda:0", with_gpus(1000)) ==
      "t.yaml: what weights, scratch and a reserve leave of the 1000 bytes free on cuda:0 (0 bytes) holds not one "
      "block "
      "of 16 tokens on shard/0/0/0; quantise the model, share it out among more devices, or end who uses this one");
  const std::string small = only_finding(make_plan(
      tutor_like(), topology("nodes: [{name: a, devices: [cuda:0]}]\nlimits: {kv_memory: 64MiB}\n"), with_gpus(1000)));
  BOOST_TEST(small.find("weights (") != std::string::npos);
  BOOST_TEST(small.find(" on cuda:0 take ") != std::string::npos);
  BOOST_TEST(small.find("it has 1000; lower limits.kv_memory or limits.max_batch_tokens") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(pages_take_what_a_gpu_has_left_unless_somebody_says_how_much) {
  const std::string nodes = "nodes: [{name: a, devices: [cuda:0]}, {name: b, devices: [cuda:0]}]\n";
  const auto blocks = [&](const std::string& text, std::uint64_t bytes) {
    const auto planned = make_plan(tutor_like(), topology(nodes + text), with_gpus(bytes));
    BOOST_TEST_REQUIRE(planned.plan.has_value());
    return std::uint64_t{planned.plan->num_blocks};
  };
  const std::string many = "limits: {max_batch_sequences: 4096}\n";
  const std::uint64_t mebibytes = 1 << 20, block = 6 * 2 * 4 * 16 * 8 * sizeof(float);
  const std::uint64_t little = blocks(many, kGpuReserveBytes + 128 * mebibytes);
  BOOST_TEST(little > 0u);
  BOOST_TEST(little * block < 128 * mebibytes);
  // Weights and scratch are the same; what is beyond them goes to pages.
  const std::uint64_t more = blocks(many, kGpuReserveBytes + 192 * mebibytes);
  BOOST_TEST((more - little) * block > 63 * mebibytes);
  BOOST_TEST((more - little) * block < 65 * mebibytes);
  // Two ranks share the GPU: each has half of the heads, and half of what is there.
  const std::uint64_t shared = blocks("parallel: {tensor: 2}\n" + many, 2 * kGpuReserveBytes + 256 * mebibytes);
  BOOST_TEST(shared > 0u);
  BOOST_TEST(shared * block < 256 * mebibytes);
  // As on cores, what is given is taken, and no more than can be used otherwise.
  BOOST_TEST(blocks("limits: {kv_memory: 1MiB}\n", kGpuReserveBytes) == mebibytes / block);
  BOOST_TEST(blocks("limits: {max_batch_sequences: 1, max_model_len: 32}\n", 8ull << 30) == 2u);
}

BOOST_AUTO_TEST_CASE(what_others_have_of_a_gpu_is_left_to_them) {
  const std::string nodes = "nodes: [{name: a, devices: [cuda:0]}]\nlimits: {max_batch_sequences: 4096";
  Machine alone = with_gpus(kGpuReserveBytes + (192ull << 20)), shared = with_gpus(8ull << 30);
  shared.gpus[0].free_bytes = alone.gpus[0].free_bytes;
  const auto expected = make_plan(tutor_like(), topology(nodes + "}\n"), alone);
  const auto planned = make_plan(tutor_like(), topology(nodes + "}\n"), shared);
  BOOST_TEST_REQUIRE((expected.plan.has_value() && planned.plan.has_value()));
  BOOST_TEST(planned.plan->num_blocks == expected.plan->num_blocks);
  // What is given is taken, if it will be free by then.
  const auto given = make_plan(tutor_like(), topology(nodes + ", kv_memory: 2GiB}\n"), shared);
  BOOST_TEST(given.plan.has_value());
  const std::string warning = only_finding(given);
  BOOST_TEST(warning.find("warning: what runs on cuda:0 takes ") != std::string::npos);
  BOOST_TEST(warning.find(" of its 8589934592 are free now: lower limits.kv_memory, or end who uses it") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(what_shards_and_drafts_take_of_a_gpu_is_counted_with_their_scratch) {
  const std::string text = "nodes: [{name: a, devices: [cuda:0]}]\nlimits: {max_batch_tokens: 64, kv_memory: 64MiB}\n";
  const auto plain = make_plan(tutor_like(), topology(text), with_gpus(8ull << 30));
  BOOST_TEST_REQUIRE(plain.plan.has_value());
  const PlannedActor& shard = *plain.plan->find("shard/0/0/0");
  const model::StepSize size = {.max_batch_tokens = 64, .max_logits_rows = 64, .on_host = false};
  const model::ScratchBytes scratch = model::scratch_bytes(tutor_like(), {0, 6, 6, 0, 1}, size);
  BOOST_TEST(shard.scratch_bytes == gpu_scratch_bytes(tutor_like(), {0, 6, 6, 0, 1}, size, false));
  BOOST_TEST(shard.scratch_bytes > scratch.device);
  BOOST_TEST(shard.host_bytes == scratch.host);
  const std::uint64_t bytes = shard.weight_bytes + shard.kv_bytes + shard.scratch_bytes;
  BOOST_TEST(make_plan(tutor_like(), topology(text), with_gpus(bytes)).plan.has_value());
  BOOST_TEST(!make_plan(tutor_like(), topology(text), with_gpus(bytes - 1)).plan.has_value());

  const auto guessed = topology(text + "speculation: {draft: {model: d}}\n");
  model::ModelConfig draft = tutor_like();
  draft.num_layers = 2;
  const auto with_draft = make_plan(tutor_like(), guessed, with_gpus(8ull << 30), &draft);
  BOOST_TEST_REQUIRE(with_draft.plan.has_value());
  const PlannedActor& planned_draft = *with_draft.plan->find("draft/0");
  BOOST_TEST(planned_draft.weight_bytes == weight_bytes_on(Device::Kind::kCuda, draft, {0, 2, 2, 0, 1}));
  BOOST_TEST(planned_draft.kv_bytes == shard.kv_bytes / 3);
  BOOST_TEST(planned_draft.scratch_bytes > 0u);
  BOOST_TEST(!make_plan(tutor_like(), guessed, with_gpus(bytes), &draft).plan.has_value());
}

BOOST_AUTO_TEST_CASE(shards_on_cores_that_exceed_the_main_memory_are_a_warning) {
  Machine machine;
  machine.memory_bytes = 1000;
  const auto planned = make_plan(tutor_like(), topology("nodes: [{name: a, devices: [cpu:0]}]\n"), machine);
  BOOST_TEST(planned.plan.has_value());
  const std::string found = only_finding(planned);
  BOOST_TEST(found.find("warning: weights (") != std::string::npos);
  BOOST_TEST(found.find(" on this machine take ") != std::string::npos);
  const PlannedActor& shard = *planned.plan->find("shard/0/0/0");
  BOOST_TEST(shard.scratch_bytes > 0u);
  BOOST_TEST(shard.host_bytes == 0u);
}

BOOST_AUTO_TEST_CASE(ranks_use_nccl_only_where_each_has_a_gpu_to_itself) {
  Machine machine = with_gpus(8ull << 30);
  machine.gpus[1].compute_capability = 90;
  const auto check = [&](const std::string& devices, Exchange exchange, const std::string& reason) {
    const std::string text =
        "nodes: [{name: a, devices: [" + devices + "]}]\nparallel: {tensor: 2}\nlimits: {max_batch_tokens: 64}\n";
    const auto planned = make_plan(tutor_like(), topology(text), machine);
    BOOST_TEST_REQUIRE(planned.plan.has_value());
    for (const char* actor : {"stage/0/0", "shard/0/0/0", "shard/0/0/1"}) {
      BOOST_TEST((planned.plan->find(actor)->exchange == exchange));
      BOOST_TEST(planned.plan->find(actor)->exchange_reason == reason);
    }
    return planned.plan->find("shard/0/0/0")->scratch_bytes;
  };
  const std::uint64_t staged = check("cuda:0", Exchange::kStaged, "ranks 0 and 1 share cuda:0");
  check("cuda:0, cpu:0", Exchange::kStaged, "rank 1 computes on cpu:0");
  check("cpu:0", Exchange::kHost, "no rank computes on a GPU");
  BOOST_TEST(check("cuda:0, cuda:1", Exchange::kNccl, "each rank has a GPU to itself") == staged + kNcclBytes);
}

BOOST_AUTO_TEST_CASE(a_node_without_devices_is_an_error) {
  BOOST_TEST(only_finding(planning("nodes: [{name: a}]\n")) ==
             "t.yaml:2:16: no node has devices to compute on; give one `devices: [cpu:0]`");
}

BOOST_AUTO_TEST_CASE(kv_blocks_are_what_the_tightest_shard_holds) {
  const auto config = tutor_like();
  const auto planned = planning(kFour +
                                "place:\n  stages:\n    - {layers: 0-4, shards: [a/cpu:0]}\n"
                                "    - {layers: 5, shards: [b/cpu:2]}\nlimits: {kv_memory: 1MiB}\n");
  const std::uint64_t block = model::bytes_per_block(config, {0, 5, 6, 0, 1}, 16);
  BOOST_TEST_REQUIRE(planned.plan.has_value());
  BOOST_TEST(planned.plan->num_blocks == (1u << 20) / block);
  BOOST_TEST(planned.plan->find("shard/0/0/0")->kv_bytes == planned.plan->num_blocks * block);
  BOOST_TEST(planned.plan->find("shard/0/1/0")->kv_bytes == planned.plan->num_blocks * block / 5);
  const auto wide = planning(kFour + "limits: {kv_memory: 1MiB}\n");
  const std::uint64_t wide_block = wide.plan->find("shard/0/0/0")->kv_bytes / wide.plan->num_blocks;
  for (const std::string dtype : {"int8", "fp8"}) {
    const auto narrow = planning("kv_dtype: " + dtype + "\n" + kFour + "limits: {kv_memory: 1MiB}\n");
    BOOST_TEST_REQUIRE(narrow.plan.has_value());
    const std::uint64_t narrow_block = narrow.plan->find("shard/0/0/0")->kv_bytes / narrow.plan->num_blocks;
    BOOST_TEST(narrow_block * 4 > wide_block);  // a scale for each token and head
    BOOST_TEST(narrow_block * 2 < wide_block);
    BOOST_TEST(narrow.plan->num_blocks > 2 * wide.plan->num_blocks);
  }
}

BOOST_AUTO_TEST_CASE(a_max_model_len_that_cannot_be_served_is_an_error_or_lowered) {
  const std::string one = "nodes: [{name: a, devices: [cpu:0]}]\n";
  BOOST_TEST(only_finding(planning(one + "limits: {max_model_len: 2000}\n")) ==
             "t.yaml:3:25: max_model_len 2000 is beyond the model's 1024 positions");
  BOOST_TEST(!planning(one + "limits: {kv_memory: 256KiB, max_model_len: 1000}\n").plan.has_value());
  const auto lowered = planning(one + "limits: {kv_memory: 256KiB}\n");
  BOOST_TEST_REQUIRE(lowered.plan.has_value());
  BOOST_TEST(lowered.plan->max_model_len == lowered.plan->num_blocks * 16);
  BOOST_TEST(lowered.diagnostics.size() == 1u);
  BOOST_TEST(!planning(one + "limits: {kv_memory: 1KiB}\n").plan.has_value());
}

BOOST_AUTO_TEST_CASE(the_prediction_grows_with_cores_and_falls_when_ranks_share_one) {
  const auto speed = [](const std::string& text) { return planning(text).plan->tokens_per_second; };
  const double one = speed("nodes: [{name: a, devices: [cpu:0]}]\n");
  const double four = speed("nodes: [{name: a, devices: [cpu:0-3]}]\n");
  BOOST_TEST(four == 4 * one, boost::test_tools::tolerance(1e-9));
  const double two_ranks = speed(kFour + "parallel: {tensor: 2}\n");
  const double sharing = speed("nodes: [{name: a, devices: [cpu:0]}]\nparallel: {tensor: 2}\n");
  BOOST_TEST(two_ranks == 2 * sharing, boost::test_tools::tolerance(1e-9));
}

}  // namespace troupe::cluster::testing
