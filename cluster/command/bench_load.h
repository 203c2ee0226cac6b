#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace CLI {
class App;
}

namespace troupe::cluster {

// Options of `troupe bench TARGET`, as they were typed.
struct BenchLoadOptions {
  std::string target;  // a URL or a topology file
  std::string model;   // empty = the first that it serves
  std::string api = "completions";
  std::string api_key;
  std::string api_key_file;
  std::uint32_t timeout_s = 120;
  std::uint32_t request_timeout_s = 600;

  std::uint32_t concurrency = 0;  // 0 = not given
  double rate = 0;
  std::string trace;
  double trace_scale = 1;
  double trace_rate = 0;
  std::uint32_t max_in_flight = 4096;
  std::uint64_t requests = 0;
  double duration_s = 0;
  std::uint32_t warmup = 2;

  std::string prompt_tokens = "128";
  std::string max_tokens = "128";
  std::string prompt_kind;
  std::uint32_t shared_prefix = 0;
  std::uint32_t vocab_size = 0;     // 0 = ask the server
  std::uint32_t max_model_len = 0;  // 0 = ask the server
  std::uint32_t trace_block_tokens = 0;
  double trace_prompt_scale = 1;
  double trace_output_scale = 1;
  std::optional<std::uint64_t> seed;  // drawn if not given
  bool ignore_eos = false;
  double temperature = 0;
  std::string extra = "{}";

  std::optional<double> slo_ttft_ms;
  std::optional<double> slo_tpot_ms;
  std::string label;
};

// Declares them. REQUIRES: `options` lives as long as the app.
void add_bench_load_options(CLI::App& app, BenchLoadOptions& options);

// Runs the load, prints a table and writes the files that are named ("-" = standard output, instead of the table).
// Returns the exit code.
int run_bench_load(const BenchLoadOptions& options, const std::string& json_file, const std::string& html_file);

}  // namespace troupe::cluster
