#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/command/local_bench.h"

namespace CLI {
class App;
}

namespace troupe::cluster {

// Options of `troupe bench --local`, beyond those that its runner takes.
struct BenchLocalOptions {
  LocalBenchOptions local;
  std::uint32_t threads = 0;         // 0 = all that this process may use
  std::vector<std::string> devices;  // GPUs, one for each shard; none = cores
  std::string kv_dtype = "f32";
  std::string speculate = "off";
};

// The heading of these options in --help.
inline constexpr const char* kBenchLocalGroup = "A model in this process (--local)";

// Declares them. REQUIRES: `options` lives as long as the app.
void add_bench_local_options(CLI::App& app, BenchLocalOptions& options);

// Measures, and prints a table, or writes JSON to `json_file` if it is not empty ("-" = standard output). Returns the
// exit code.
int run_bench_local(BenchLocalOptions options, const std::string& json_file);

}  // namespace troupe::cluster
