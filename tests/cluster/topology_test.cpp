#include "cluster/topology.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

namespace troupe::cluster {
namespace {

std::vector<std::string> findings(const std::string& text) {
  std::vector<std::string> lines;
  for (const Diagnostic& diagnostic : parse_topology(text, "t.yaml").diagnostics) {
    lines.push_back(diagnostic.to_string("t.yaml"));
  }
  return lines;
}

void check_findings(const std::string& text, const std::vector<std::string>& expected) {
  const auto found = findings(text);
  BOOST_CHECK_EQUAL_COLLECTIONS(found.begin(), found.end(), expected.begin(), expected.end());
}

const std::string kTwo =
    "model: m\n"
    "nodes:\n"
    "  - {name: left, devices: [cpu:0-3]}\n"
    "  - {name: right, devices: [cpu:1]}\n";

// A folder that is gone at the end of the test.
struct TemporaryFolder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("troupe-topology-" + std::to_string(getpid()));
  TemporaryFolder() { std::filesystem::create_directories(path); }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name) << text;
    return path / name;
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(speculation_is_by_ngram_unless_it_is_said_otherwise) {
  const auto read = [](const std::string& speculation) {
    return parse_topology(kTwo + speculation, "t.yaml").topology;
  };
  using Kind = SpeculationSpec::Kind;
  BOOST_TEST((*read("")->speculation.kind == Kind::kNgram));
  BOOST_TEST(read("")->speculation.max_guesses() == SpeculationSpec::kDefaultMax);
  BOOST_TEST(read("speculation: off\n")->speculation.max_guesses() == 0u);
  BOOST_TEST(read("speculation: ngram\n")->speculation.max_guesses() == SpeculationSpec::kDefaultMax);
  BOOST_TEST(read("speculation: {ngram: {max: 3}}\n")->speculation.max_guesses() == 3u);
  const auto draft = read("speculation: {draft: {model: d, node: left, device: cpu:1-2, max: 5}}\n")->speculation;
  BOOST_TEST((*draft.kind == Kind::kDraft));
  BOOST_TEST(*draft.model == "d");
  BOOST_TEST(*draft.node == "left");
  BOOST_TEST((*draft.device)->to_string() == "cpu:1-2");
  BOOST_TEST(draft.max_guesses() == 5u);
}

BOOST_AUTO_TEST_CASE(lookahead_is_left_to_the_planner_unless_it_is_said_otherwise) {
  const auto read = [](const std::string& lookahead) { return parse_topology(kTwo + lookahead, "t.yaml"); };
  BOOST_TEST((*read("").topology->lookahead == Lookahead::kAuto));
  BOOST_TEST((*read("lookahead: auto\n").topology->lookahead == Lookahead::kAuto));
  BOOST_TEST((*read("lookahead: on\n").topology->lookahead == Lookahead::kOn));
  BOOST_TEST((*read("lookahead: off\n").topology->lookahead == Lookahead::kOff));
  const TopologyReading wrong = read("lookahead: true\n");
  BOOST_TEST(!wrong.topology.has_value());
  BOOST_TEST(wrong.diagnostics.front().message == "lookahead 'true' is neither auto, on nor off");
}

BOOST_AUTO_TEST_CASE(what_is_wrong_with_speculation_is_said) {
  const auto check = [](const std::string& value, const std::string& expected) {
    check_findings(kTwo + "speculation: " + value + "\n", {"t.yaml:5:" + expected});
  };
  check("on", "14: speculation: 'on' is no kind of speculation; write off or ngram, or name a draft's model");
  check("{ngarm: {}}", "15: unknown key 'ngarm' in speculation; did you mean 'ngram'?");
  check("{ngram: {max: 0}}", "28: max: expected a whole number from 1 to 32, found '0'");
  check("{ngram: {max: 33}}", "28: max: expected a whole number from 1 to 32, found '33'");
  check("{draft: {node: left}}", "22: speculation.draft has no 'model', which it must have");
  check("{draft: {model: d, node: lefd}}", "39: there is no node 'lefd'; did you mean 'left'?");
  check("{draft: {model: d, node: right, device: cpu:0}}", "54: node 'right' has no device cpu:0; it has cpu:1");
  check("{ngram: {}, draft: {model: d}}", "33: speculation: ngram and draft cannot both guess; leave one out");
}

BOOST_AUTO_TEST_CASE(every_value_is_read_with_its_place) {
  const auto reading = parse_topology(
      "cluster: two-by-two\n"
      "model: models/tutor/\n"
      "nodes:\n"
      "  - {name: left, host: localhost, address: 10.0.0.1, port: 7000, netns: l, devices: [cpu:0, cpu:2-3]}\n"
      "  - {name: right, netns: r, address: 10.0.0.2}\n"
      "parallel: {pipeline: 2, tensor: 2}\n"
      "place:\n"
      "  gateway: {node: right, listen: '[::1]:9000', api_key_file: key}\n"
      "  scheduler: {node: left}\n"
      "  stages:\n"
      "    - {layers: 0-2, shards: [left/cpu:0, left/cpu:2-3]}\n"
      "    - {layers: 3, shards: [left/cpu:0, left/cpu:2]}\n"
      "limits: {queue: 7, kv_memory: 1.5GiB}\n"
      "fabric: {transports: [tcp, sm], spin_us: 20, secret_file: s}\n",
      "t.yaml");
  BOOST_TEST_REQUIRE(reading.diagnostics.size() == 0u);
  BOOST_TEST_REQUIRE(reading.topology.has_value());
  const Topology& t = *reading.topology;
  BOOST_TEST(*t.cluster == "two-by-two");
  BOOST_TEST(*t.served_model_name == "tutor");
  BOOST_TEST_REQUIRE(t.nodes.size() == 2u);
  BOOST_TEST(*t.nodes[0].port == 7000);
  BOOST_TEST(t.nodes[0].port.place.line == 4u);
  BOOST_TEST(t.nodes[0].port.place.column == 60u);
  BOOST_TEST(*t.nodes[0].netns == "l");
  BOOST_TEST((*t.nodes[0].devices[1] == Device{Device::Kind::kCpu, 2, 3}));
  BOOST_TEST(*t.nodes[1].host == "localhost");
  BOOST_TEST(!t.nodes[1].host.place.known());
  BOOST_TEST(*t.place.gateway->host == "::1");
  BOOST_TEST(*t.place.gateway->port == 9000);
  BOOST_TEST(t.place.stages[0].last_layer == 3u);
  BOOST_TEST(t.place.stages[1].first_layer == 3u);
  BOOST_TEST(t.place.stages[1].last_layer == 4u);
  BOOST_TEST(t.limits.kv_memory == 3u << 29);
  BOOST_TEST(t.limits.queue == 7u);
  BOOST_TEST(t.limits.spin_us == 20u);
  BOOST_TEST(t.limit_overrides.size() == 3u);
  BOOST_TEST(*t.fabric.transports == "tcp,sm");
}

BOOST_AUTO_TEST_CASE(several_mistakes_are_reported_in_one_run_each_with_place_and_remedy) {
  check_findings(
      "cluster: a b\n"
      "modle: m\n"
      "nodes:\n"
      "  - {name: left, devcies: [cpu:0]}\n"
      "  - {name: right, port: 70000, devices: [cpu:3-1, gpu:0]}\n"
      "parallel: {pipeline: two, expert: 0, replicas: 0}\nrouting: best\npacked_cache: here\n",
      {
          "t.yaml:1:1: the topology has no 'model', which it must have",
          "t.yaml:1:10: a cluster's name is 1 to 64 of the characters A-Z a-z 0-9 . _ -, not 'a b'",
          "t.yaml:2:1: unknown key 'modle' in the topology; did you mean 'model'?",
          "t.yaml:4:18: unknown key 'devcies' in a node; did you mean 'devices'?",
          "t.yaml:5:25: port: expected a whole number from 0 to 65535, found '70000'",
          "t.yaml:5:42: device 'cpu:3-1' is a range that runs backwards",
          "t.yaml:5:51: device 'gpu:0' is none of cpu:N, cpu:N-M and cuda:N (N at most 4095)",
          "t.yaml:6:22: pipeline: expected a whole number from 1 to 1024, found 'two'",
          "t.yaml:6:35: expert: expected a whole number from 1 to 256, found '0'",
          "t.yaml:6:48: replicas: expected a whole number from 1 to 256, found '0'",
          "t.yaml:7:10: routing 'best' is neither prefix nor round_robin",
          "t.yaml:8:15: packed_cache: 'here' is not an absolute path; every node has the folder on its own disk",
      });
}

BOOST_AUTO_TEST_CASE(stages_may_have_expert_actors) {
  const auto reading = parse_topology(
      kTwo + "place:\n  stages: [{layers: 0-2, shards: [left/cpu:0], experts: [left/cpu:1, right/cpu:1]}]\n", "t.yaml");
  BOOST_TEST_REQUIRE(reading.diagnostics.size() == 0u);
  const StagePlace& stage = reading.topology->place.stages.front();
  BOOST_TEST_REQUIRE(stage.experts.size() == 2u);
  BOOST_TEST(stage.experts[0]->node == "left");
  BOOST_TEST(stage.experts[1]->device.to_string() == "cpu:1");
  BOOST_TEST(stage.experts[1].place.line == 6u);
  BOOST_TEST(*reading.topology->parallel.expert == 1u);
  BOOST_TEST(*parse_topology(kTwo + "parallel: {expert: 4}\n", "t.yaml").topology->parallel.expert == 4u);
}

BOOST_AUTO_TEST_CASE(wrong_expert_actors_are_reported_with_their_place) {
  const auto check = [](const std::string& experts, const std::vector<std::string>& expected,
                        const std::string& more = "") {
    check_findings(
        kTwo + more + "place:\n  stages:\n    - {layers: 0-2, shards: [left/cpu:0], experts: " + experts + "}\n",
        expected);
  };
  check("[lfet/cpu:0, right/cpu:0, cpu:1]", {"t.yaml:7:53: there is no node 'lfet'; did you mean 'left'?",
                                             "t.yaml:7:65: node 'right' has no device cpu:0; it has cpu:1",
                                             "t.yaml:7:78: expert 'cpu:1' is not of the form NODE/DEVICE: left/cpu:0"});
  check("[]", {"t.yaml:7:52: experts is empty; leave it out, or list expert actors"});
  check("8", {"t.yaml:7:52: experts must be a list, not a single value"});
  check("[left/cpu:1]",
        {"t.yaml:5:20: warning: place.stages has stages with another number of experts, and what is placed counts"},
        "parallel: {expert: 2}\n");
}

BOOST_AUTO_TEST_CASE(names_must_refer_to_nodes_and_devices_of_the_file) {
  check_findings(kTwo +
                     "place:\n"
                     "  gateway: {node: lfet, listen: localhost}\n"
                     "  scheduler: {node: zebra}\n"
                     "  stages:\n"
                     "    - {layers: 0, shards: [left/cpu:2-5, right/cpu:1, rigth/cpu:1, left]}\n",
                 {
                     "t.yaml:6:19: there is no node 'lfet'; did you mean 'left'?",
                     "t.yaml:6:33: listen: 'localhost' has no port; expected HOST:PORT such as 127.0.0.1:8080",
                     "t.yaml:7:21: there is no node 'zebra'; expected left or right",
                     "t.yaml:9:28: node 'left' has no device cpu:2-5; it has cpu:0-3",
                     "t.yaml:9:55: there is no node 'rigth'; did you mean 'right'?",
                     "t.yaml:9:68: shard 'left' is not of the form NODE/DEVICE: left/cpu:0",
                 });
}

BOOST_AUTO_TEST_CASE(layers_must_follow_each_other_without_overlap_or_gap) {
  const std::string stages = kTwo + "place:\n  stages:\n    - {layers: 0-2, shards: [left/cpu:0]}\n";
  check_findings(stages + "    - {layers: 2-5, shards: [right/cpu:1]}\n",
                 {"t.yaml:8:16: layer 2 belongs to an earlier stage already; stage 1 must begin with layer 3"});
  check_findings(stages + "    - {layers: 4-5, shards: [right/cpu:1]}\n",
                 {"t.yaml:8:16: layer 3 belongs to no stage; stage 1 must begin with layer 3"});
  check_findings(stages + "    - {layers: 5-3, shards: [right/cpu:1]}\n",
                 {"t.yaml:8:16: layers '5-3' is neither one layer (3) nor a range (0-2), the last one included, below "
                  "4096"});
}

BOOST_AUTO_TEST_CASE(the_stages_of_each_replica_are_checked_by_themselves) {
  const std::string stages = kTwo +
                             "routing: round_robin\n"
                             "place:\n  stages:\n    - {replica: 1, layers: 0-5, shards: [right/cpu:1]}\n"
                             "    - {layers: 0-2, shards: [left/cpu:0]}\n";
  const auto reading = parse_topology(stages + "    - {layers: 3-5, shards: [left/cpu:0]}\n", "t.yaml");
  BOOST_TEST_REQUIRE(reading.topology.has_value());
  BOOST_TEST((*reading.topology->routing == Routing::kRoundRobin));
  const auto& placed = reading.topology->place.stages;
  BOOST_TEST_REQUIRE(placed.size() == 3u);
  BOOST_TEST(*placed[1].replica == 0u);
  BOOST_TEST(placed[1].first_layer == 3u);
  BOOST_TEST(*placed[2].replica == 1u);
  check_findings(stages + "    - {layers: 4-5, shards: [left/cpu:0]}\n",
                 {"t.yaml:10:16: layer 3 belongs to no stage; stage 1 must begin with layer 3"});
  check_findings(stages + "    - {replica: 3, layers: 0-5, shards: [left/cpu:0]}\n",
                 {"t.yaml:10:17: replica 2 has no stages; number the replicas 0, 1, 2, ..."});
  check_findings(kTwo + "place:\n  stages:\n    - {replica: 1, layers: 0-5, shards: [right/cpu:1]}\n",
                 {"t.yaml:7:17: replica 0 has no stages; number the replicas 0, 1, 2, ..."});
}

BOOST_AUTO_TEST_CASE(limits_are_checked_by_name_unit_and_range) {
  check_findings(
      kTwo + "limits: {kv_memori: 2GiB, max_model_len: 4KiB, block_size: 0, kv_memory: 2Gib, queue: -1}\n",
      {
          "t.yaml:5:10: unknown key 'kv_memori' in limits; did you mean 'kv_memory'?",
          "t.yaml:5:42: limit max_model_len is a whole number without a unit, not '4KiB'",
          "t.yaml:5:60: limit block_size is 0, outside 1..256",
          "t.yaml:5:74: limit kv_memory: '2Gib' is not a number of bytes such as 65536, 64KiB, 1.5GB or 2GiB",
          "t.yaml:5:87: limit queue is a whole number without a unit, not '-1'",
      });
  check_findings(kTwo + "limits: {spin_us: 1}\nfabric: {spin_us: 2}\n",
                 {"t.yaml:6:19: limit spin_us is set twice; line 5 sets it already"});
}

BOOST_AUTO_TEST_CASE(wrong_types_name_what_was_expected) {
  check_findings("model: [a]\nnodes: left\n", {
                                                  "t.yaml:1:8: model: expected a single value, found a list",
                                                  "t.yaml:2:8: nodes must be a list, not a single value",
                                              });
  check_findings("model:\nnodes: []\n", {
                                            "t.yaml:1:1: model: expected a single value, found nothing",
                                            "t.yaml:2:8: nodes is empty; a cluster has at least one node",
                                        });
  check_findings(
      "- a\n", {"t.yaml:1:1: the topology must be a map with the keys cluster, model, served_model_name, kv_dtype, "
                "packed_cache, nodes, parallel, routing, place, speculation, lookahead, limits or fabric, not a list"});
  check_findings("", {"t.yaml:1:1: the file is empty"});
  check_findings("model: m\nkv_dtype: q4\nnodes: [{name: a}]\n",
                 {"t.yaml:2:11: kv_dtype: KV pages are f32, f16, bf16, int8 or fp8, not 'q4'"});
}

BOOST_AUTO_TEST_CASE(a_key_given_twice_is_an_error_at_the_second) {
  check_findings(kTwo + "model: other\n", {"t.yaml:5:1: key 'model' is given twice; it stands in line 1 already"});
}

BOOST_AUTO_TEST_CASE(hosts_other_than_this_one_say_when_they_come) {
  check_findings("model: m\nnodes: [{name: a, host: gpu01}]\n",
                 {"t.yaml:2:25: host 'gpu01': only localhost works so far; starting nodes on other hosts (ssh, slurm, "
                  "kubernetes) comes with a later version"});
}

BOOST_AUTO_TEST_CASE(nodes_that_cannot_reach_each_other_are_refused) {
  check_findings("model: m\nnodes:\n  - {name: a, netns: x, address: 10.0.0.1}\n  - {name: b}\n",
                 {"t.yaml:4:12: node 'b' listens on 127.0.0.1, which nodes in another network namespace cannot reach; "
                  "give it an `address:`"});
  check_findings("model: m\nnodes:\n  - {name: a, port: 7}\n  - {name: b, port: 7}\n",
                 {"t.yaml:4:21: nodes 'a' and 'b' have the same address and port; leave `port:` out for any free one"});
}

BOOST_AUTO_TEST_CASE(bombs_are_refused_with_a_place) {
  check_findings("model: &m x\nnodes: *m\n",
                 {"t.yaml:2:8: aliases (*name) are not supported here; write the value out"});
  check_findings("model: m\nnodes: " + std::string(17, '[') + std::string(17, ']') + "\n",
                 {"t.yaml:2:23: nested deeper than 16 levels"});

  const auto deep = parse_topology(std::string(1 << 20, '['), "t.yaml");
  BOOST_TEST(!deep.topology.has_value());
  std::string wide = "model: m\nnodes: [";
  for (int i = 0; i < 70'000; ++i) wide += "0,";
  const auto found = findings(wide + "]\n");
  BOOST_TEST_REQUIRE(found.size() == 1u);
  BOOST_TEST(found[0].ends_with("more than 65536 values"));

  std::string wrong = "model: m\nnodes: [{name: a}]\nlimits:\n";
  for (int i = 0; i < 500; ++i) wrong += "  wrong" + std::to_string(i) + ": 1\n";
  BOOST_TEST(findings(wrong).size() == Diagnostics::kMaxDiagnostics);
}

BOOST_AUTO_TEST_CASE(text_that_is_not_yaml_is_an_error_with_a_place) {
  const auto found = findings("model: m\nnodes: [a, b\n");
  BOOST_TEST_REQUIRE(found.size() == 1u);
  BOOST_TEST(found[0].starts_with("t.yaml:3:1: not valid YAML: "));
}

BOOST_AUTO_TEST_CASE(paths_are_found_beside_the_file_and_errors_say_where_was_looked) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path / "m");
  const std::string good = folder.write("good.yaml", "model: m\nnodes: [{name: a, devices: [cpu:0]}]\n");
  const auto reading = read_topology(good);
  BOOST_TEST_REQUIRE(reading.topology.has_value());
  BOOST_TEST(*reading.topology->model == (folder.path / "m").string());
  BOOST_TEST(*reading.topology->cluster == "good");

  const auto missing = read_topology(folder.write("missing.yaml", "model: nowhere\nnodes: [{name: a}]\n"));
  BOOST_TEST_REQUIRE(missing.diagnostics.size() == 1u);
  BOOST_TEST(missing.diagnostics[0].place.column == 8u);
  BOOST_TEST(missing.diagnostics[0].message.find((folder.path / "nowhere").string()) != std::string::npos);
}

BOOST_AUTO_TEST_CASE(files_that_cannot_be_read_are_errors) {
  const TemporaryFolder folder;
  BOOST_TEST(read_topology(folder.path / "none.yaml").diagnostics[0].to_string("none.yaml") ==
             "none.yaml: cannot be opened: No such file or directory");
  BOOST_TEST(read_topology(folder.path).diagnostics[0].message == "is a directory, not a topology file");
  const std::string huge = folder.write("huge.yaml", std::string((1 << 20) + 1, '#'));
  BOOST_TEST(read_topology(huge).diagnostics[0].message == "is larger than topology_file_bytes (1048576)");
}

BOOST_AUTO_TEST_CASE(the_shipped_topologies_are_right_in_themselves) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("examples/topologies")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    std::ifstream in(entry.path());
    const std::string text(std::istreambuf_iterator<char>(in), {});
    for (const Diagnostic& diagnostic : parse_topology(text, entry.path().string()).diagnostics) {
      BOOST_ERROR(diagnostic.to_string(entry.path().string()));
    }
  }
  BOOST_TEST(files >= 3);
}

BOOST_AUTO_TEST_CASE(bytes_are_read_with_decimal_and_binary_units) {
  BOOST_TEST(*parse_bytes("64") == 64u);
  BOOST_TEST(*parse_bytes("64KiB") == 65536u);
  BOOST_TEST(*parse_bytes("1.5 GB") == 1'500'000'000u);
  BOOST_TEST(*parse_bytes("2TiB") == std::uint64_t{2} << 40);
  for (const char* wrong : {"", "KiB", "-1", "1e3", "0.5", "1 GiBs", "nan", "inf", "99999999999999TB", "0x10"}) {
    BOOST_TEST(!parse_bytes(wrong).ok(), wrong);
  }
}

BOOST_AUTO_TEST_CASE(the_nearest_word_is_found_only_if_it_is_near) {
  const std::vector<std::string> words = {"model", "nodes", "place"};
  BOOST_TEST(nearest("modle", words) == "model");
  BOOST_TEST(nearest("NODES", words) == "nodes");
  BOOST_TEST(nearest("palce", words) == "place");
  BOOST_TEST(nearest("gateway", words) == "");
  BOOST_TEST(nearest(std::string(100'000, 'x'), words) == "");
}

}  // namespace troupe::cluster
