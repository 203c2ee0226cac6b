#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cluster/bench/comparison.h"
#include "cluster/bench/html_report.h"
#include "cluster/command/bench_load.h"
#include "cluster/command/bench_local.h"
#include "cluster/command/output_file.h"
#include "cluster/command/verbs.h"

namespace troupe::cluster {
namespace {

struct BenchOptions {
  BenchLoadOptions load;
  BenchLocalOptions local;
  std::vector<std::string> compare;  // two reports
  std::string json_file;             // "-" = standard output
  std::string html_file;
};

int refuse(const std::string& why) {
  fmt::print(stderr, "troupe bench: {}\n", why);
  return 2;
}

int run_compare(const BenchOptions& options) {
  if (!options.json_file.empty()) return refuse("--json: a comparison is a table, or --html");
  const Limits limits;
  std::vector<BenchReport> reports;
  for (const std::string& file : options.compare) {
    auto report = read_bench_report(file, limits);
    if (!report.ok()) return refuse(report.error().message);
    reports.push_back(*std::move(report));
  }
  if (options.html_file != "-") fmt::print("{}", comparison_table(reports[0], reports[1]));
  if (options.html_file.empty()) return 0;
  return write_output("troupe bench", options.html_file, html_comparison(reports[0], reports[1]));
}

// The first option given that does not belong to what is done; null if there is none.
const CLI::Option* foreign_option(const CLI::App& app, bool local, bool load) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0 || option->get_group() == "Options") continue;  // --help and those of every use
    const bool of_local = option->get_group() == kBenchLocalGroup;
    const bool of_compare = option->get_lnames() == std::vector<std::string>{"compare"};
    if (of_compare ? local || load : of_local ? !local : !load) return option;
  }
  return nullptr;
}

int run_bench(const CLI::App& app, const BenchOptions& options) {
  const bool local = !options.local.local.model.empty();
  const bool load = !options.load.target.empty();
  if (!local && !load && options.compare.empty()) {
    return refuse(
        "what is to be measured? A URL or a topology file names a server; --local MODEL runs a model in this "
        "process; --compare shows two reports side by side");
  }
  if (const CLI::Option* foreign = foreign_option(app, local, load && !local)) {
    return refuse(fmt::format("{} has no place beside {}", foreign->get_name(),
                              local  ? "--local"
                              : load ? "a server under load"
                                     : "--compare"));
  }
  if (local) {
    if (!options.html_file.empty()) return refuse("--html: only a load on a server and a comparison have a page");
    return run_bench_local(options.local, options.json_file);
  }
  return load ? run_bench_load(options.load, options.json_file, options.html_file) : run_compare(options);
}

}  // namespace

VerbRun prepare_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  add_bench_load_options(app, options->load);
  app.add_option("--compare", options->compare, "Two reports written with --json, side by side")
      ->expected(2)
      ->group("Two runs");
  add_bench_local_options(app, options->local);
  // Last, so that a word after it is its file and not the target.
  app.add_option("--json", options->json_file, "Write the report as JSON to this file; without one, or -, print it")
      ->expected(0, 1)
      ->default_str("-");
  app.add_option("--html", options->html_file, "Write it as an HTML page with plots; - prints it");
  app.footer(
      R"(A server under load: sends requests as many clients would, in a closed loop (--concurrency), an open one (--rate) or
at the times of a trace, and says how fast the answers came. The first token counts from the moment a request was sent;
the time per output token is that from the first piece to the last, divided by the tokens after the first; rates are over
the time from the first request to the last answer. Ctrl-C ends a run early and still reports it. A second run with the
same --seed finds its prompts in the server's prefix cache.

--local: how fast this machine runs a model, and how fast it could. Prefill is reading the prompts, decode is generating
after them. Decoding one sequence reads every weight once for each token, so that it cannot be faster than the memory;
with many sequences, and in prefill, the multiply-adds become the bound. Both bounds are measured here, right before each
repetition and on the same cores, and each speed is given as a share of the bound that limits it. On GPUs (--device) the
bound is how fast they copy within their memory: of prefill, which multiplies more than it reads, that says little.

Progress goes to standard error, the result to standard output.

Examples:
  troupe bench http://127.0.0.1:8080 --concurrency 16 --requests 200 --prompt-tokens 128 --max-tokens 64 --ignore-eos
  troupe bench examples/topologies/two-by-two.yaml --rate 5 --duration 60 --slo-ttft-ms 500 --slo-tpot-ms 50
  troupe bench http://127.0.0.1:8080 --trace conversation.jsonl --trace-block-tokens 16 --trace-rate 2 --html run.html
  troupe bench http://127.0.0.1:8080 --label before --json before.json
  troupe bench --compare before.json after.json --html both.html
  troupe bench --local MODEL --prompt 128 --generate 64 --batch 16
  troupe bench --local MODEL --shards 2 --json | jq .fraction_of_bound
  taskset -c 0 troupe bench --local MODEL            on one core
  troupe bench --local MODEL --device cuda:0         on a GPU

Exit codes: 0 measured, 1 nothing was answered or the model cannot be run, 2 the command line or a file is wrong, 130
ended with Ctrl-C.)");
  return [&app, options] { return run_bench(app, *options); };
}

}  // namespace troupe::cluster
