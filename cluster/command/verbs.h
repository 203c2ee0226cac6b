#pragma once

#include <functional>
#include <span>
#include <string_view>

namespace CLI {
class App;
}

namespace troupe::cluster {

// Does what the user asked for and returns the exit code: 0 = done, 1 = failed, 2 = the command line or a topology
// file was wrong.
using VerbRun = std::function<int()>;

// One verb of the `troupe` command. `prepare` declares the verb's options on `app` (which main made, with the name and
// summary below) and returns what runs it; the options' values live in that function object.
struct Verb {
  std::string_view name;
  std::string_view summary;
  VerbRun (*prepare)(CLI::App& app);
};

// Every verb, in the order of `troupe --help`.
std::span<const Verb> verbs();

VerbRun prepare_check(CLI::App& app);
VerbRun prepare_plan(CLI::App& app);
VerbRun prepare_up(CLI::App& app);
VerbRun prepare_status(CLI::App& app);
VerbRun prepare_down(CLI::App& app);
VerbRun prepare_serve(CLI::App& app);
VerbRun prepare_replay(CLI::App& app);
VerbRun prepare_quantize(CLI::App& app);
VerbRun prepare_chat(CLI::App& app);
VerbRun prepare_generate(CLI::App& app);
VerbRun prepare_bench(CLI::App& app);
VerbRun prepare_doctor(CLI::App& app);
VerbRun prepare_node(CLI::App& app);
VerbRun prepare_version(CLI::App& app);

}  // namespace troupe::cluster
