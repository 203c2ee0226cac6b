#include <CLI/CLI.hpp>
#include <array>
#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include "cluster/command/verbs.h"
#include "cluster/diagnostic.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

constexpr int kUsageError = 2;

// In the order of a first evening with the program.
constexpr std::array kVerbs = {
    Verb{"check", "Read a topology file and report every mistake", prepare_check},
    Verb{"plan", "Show what would run where, before anything starts", prepare_plan},
    Verb{"up", "Start a cluster and serve until Ctrl-C", prepare_up},
    Verb{"status", "Show who runs where, and how it is", prepare_status},
    Verb{"down", "End a running cluster", prepare_down},
    Verb{"serve", "Serve one model from this one process, without a topology file", prepare_serve},
    Verb{"replay", "Go through what a scheduler decided, from its record", prepare_replay},
    Verb{"quantize", "Make a smaller model of a model", prepare_quantize},
    Verb{"chat", "Talk to a running cluster", prepare_chat},
    Verb{"generate", "Complete one prompt on a running cluster", prepare_generate},
    Verb{"bench", "Measure a server under load, or how fast this machine runs a model", prepare_bench},
    Verb{"doctor", "Show what this machine can compute on, and why not", prepare_doctor},
    Verb{"node", "Be one node of a cluster (started by launchers)", prepare_node},
    Verb{"version", "Show the version and what it was built with", prepare_version},
};

constexpr const char* kFooter = R"(Start here:
  troupe check examples/topologies/two-by-two.yaml     is the file right?
  troupe plan  examples/topologies/two-by-two.yaml     what would run where?
  troupe up    examples/topologies/two-by-two.yaml     start it; Ctrl-C takes it down
  troupe chat                                          talk to it, from another terminal

'troupe VERB --help' shows a verb's options and examples.
Exit codes: 0 done, 1 failed, 2 the command line or a topology file is wrong.)";

std::vector<std::string> verb_names() {
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) names.emplace_back(verb.name);
  return names;
}

// What is wrong with words that no option or argument took, and what may have been meant.
std::string unexpected(const CLI::App& verb, const std::vector<std::string>& words) {
  std::vector<std::string> options;
  for (const CLI::Option* option : verb.get_options()) {
    for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
  }
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += "\n";
    const bool is_option = word.starts_with("-");
    text += "troupe " + verb.get_name() + ": unexpected " + (is_option ? "option" : "argument") + " '" +
            printable(word) + "'";
    const std::string meant = is_option ? nearest(word.substr(0, word.find('=')), options) : "";
    text += meant.empty() ? "; see troupe " + verb.get_name() + " --help" : "; did you mean '" + meant + "'?";
  }
  return text;
}

int run(int argc, char** argv) {
  CLI::App app("Troupe serves large language models with a cast of actors: one topology file says which runs where.",
               "troupe");
  app.footer(kFooter);
  app.require_subcommand(1);
  if (argc == 1) {
    std::cerr << "troupe: name a verb: " << any_of(verb_names()) << "; see troupe --help\n";
    return kUsageError;
  }
  if (argv[1][0] != '-') {
    const std::vector<std::string> names = verb_names();
    if (std::find(names.begin(), names.end(), argv[1]) == names.end()) {
      const bool help = argv[1] == std::string_view("help");
      std::cerr << "troupe: there is no verb '" << printable(argv[1]) << "'; "
                << (help ? "did you mean '--help'?" : suggestion(argv[1], names)) << "\n";
      return kUsageError;
    }
  }

  std::vector<std::pair<CLI::App*, VerbRun>> runs;
  for (const Verb& verb : verbs()) {
    CLI::App* sub = app.add_subcommand(std::string(verb.name), std::string(verb.summary));
    VerbRun run_verb = verb.prepare(*sub);
    runs.emplace_back(sub, std::move(run_verb));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ExtrasError&) {
    for (const auto& [sub, run_verb] : runs) {
      if (sub->parsed()) std::cerr << unexpected(*sub, app.remaining(true)) << "\n";
    }
    return kUsageError;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::string name = "troupe";
    for (const auto& [sub, run_verb] : runs) {
      if (sub->parsed()) name += " " + sub->get_name();
    }
    std::cerr << name << ": " << one_line(error.what()) << "; see " << name << " --help\n";
    return kUsageError;
  }
  for (const auto& [sub, run_verb] : runs) {
    if (sub->parsed()) return run_verb();
  }
  return kUsageError;
}

}  // namespace

std::span<const Verb> verbs() { return kVerbs; }

}  // namespace troupe::cluster

int main(int argc, char** argv) {
  // A reader that goes away (| head) is an error of that write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  return troupe::cluster::run(argc, argv);
}
