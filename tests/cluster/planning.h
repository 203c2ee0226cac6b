#pragma once

#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <string>

#include "cluster/plan.h"
#include "runtime/model/config.h"

// What the tests of plans plan.
namespace troupe::cluster::testing {

inline model::ModelConfig tutor_like() {
  model::ModelConfig config;
  config.model_type = "llama";
  config.vocab_size = 512;
  config.hidden_size = 64;
  config.intermediate_size = 160;
  config.num_layers = 6;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_dim = 8;
  config.max_position_embeddings = 1024;
  config.sliding_windows.assign(6, 0);
  config.dtype = kernels::DType::kBF16;
  return config;
}

inline Topology topology(const std::string& text) {
  const auto reading = parse_topology("model: m\n" + text, "t.yaml");
  for (const Diagnostic& diagnostic : reading.diagnostics) {
    if (diagnostic.severity == Diagnostic::Severity::kError) BOOST_FAIL(diagnostic.to_string("t.yaml"));
  }
  return *reading.topology;
}

// Two GPUs of which one is too old, with memory for `memory_bytes`.
inline Machine with_gpus(std::uint64_t memory_bytes) {
  Machine machine;
  machine.gpus = {{.name = "new",
                   .memory_bytes = memory_bytes,
                   .free_bytes = memory_bytes,
                   .bytes_per_second = 1e12,
                   .compute_capability = 90},
                  {.name = "old",
                   .memory_bytes = memory_bytes,
                   .free_bytes = memory_bytes,
                   .bytes_per_second = 1e11,
                   .compute_capability = 75}};
  return machine;
}

inline const std::string kFour = "nodes: [{name: a, devices: [cpu:0, cpu:1]}, {name: b, devices: [cpu:2, cpu:3]}]\n";

inline std::string only_finding(const Planning& planning) {
  BOOST_TEST_REQUIRE(planning.diagnostics.size() == 1u);
  return planning.diagnostics[0].to_string("t.yaml");
}

}  // namespace troupe::cluster::testing
