#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "cluster/command/load_plan.h"
#include "cluster/command/verbs.h"

namespace troupe::cluster {
namespace {

struct CheckOptions {
  std::string file;
};

int run_check(const CheckOptions& options) {
  const auto loaded = load_plan(options.file, std::cerr);
  if (!loaded) return 2;
  std::cout << options.file << ": right: cluster " << loaded->plan.cluster << ", " << loaded->topology.nodes.size()
            << " node(s), " << loaded->plan.stages << " stage(s), " << loaded->plan.actors.size() << " actors, "
            << loaded->warnings << " warning(s)\n";
  return 0;
}

}  // namespace

VerbRun prepare_check(CLI::App& app) {
  auto options = std::make_shared<CheckOptions>();
  app.add_option("FILE", options->file, "The topology file")->required();
  app.footer(R"(Reports every mistake as FILE:LINE:COLUMN: what, and what was probably meant. Nothing is started.
Reads the model's config or GGUF header too, to see whether the layers and ranks suit it.

Example:
  troupe check examples/topologies/two-by-two.yaml

Exit codes: 0 right (warnings allowed), 2 wrong.)");
  return [options] { return run_check(*options); };
}

}  // namespace troupe::cluster
