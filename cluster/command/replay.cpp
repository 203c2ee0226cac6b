#include "runtime/engine/replay.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "cluster/command/verbs.h"
#include "runtime/base/log.h"
#include "runtime/model/mapped_file.h"

namespace troupe::cluster {
namespace {

struct ReplayOptions {
  std::string file;
  bool json = false;
};

std::string line_of(const engine::ReplayEvent& event, double at_ms, bool json) {
  const std::string text = one_line(event.text);
  if (!json) return fmt::format("{:>12.3f} ms  {:<12} {}\n", at_ms, event.kind, text);
  return boost::json::serialize(boost::json::object{
             {"offset", event.offset}, {"ms", at_ms}, {"kind", event.kind}, {"text", text}, {"same", event.same}}) +
         "\n";
}

int run_replay(const ReplayOptions& options) {
  const auto fail = [&](const std::string& message) {
    fmt::print(stderr, "troupe: {}: {}\n", options.file, message);
    return 1;
  };
  auto file = model::MappedFile::open(options.file);
  if (!file.ok()) {
    fmt::print(stderr, "troupe: {}\n", file.error().message);
    return 1;
  }
  auto replay = engine::Replay::open(file->bytes());
  if (!replay.ok()) return fail(replay.error().message);
  std::uint64_t steps = 0;
  while (true) {
    auto event = (*replay)->next();
    if (!event.ok()) return fail(event.error().message);
    if (!*event) break;
    const double at_ms = static_cast<double>((*event)->time_ns - (*replay)->begin_ns()) / 1e6;
    std::cout << line_of(**event, at_ms, options.json);
    if (!(*event)->same) {
      std::cout.flush();
      return fail(
          fmt::format("byte {}: this program decides otherwise than the one that made the record", (*event)->offset));
    }
    steps += (*event)->is_step ? 1 : 0;
  }
  const engine::EngineCounts counts = (*replay)->engine().counts();
  const std::size_t left_over = (*replay)->left_over_bytes();
  std::cout.flush();
  fmt::print(stderr,
             "{} steps, all the same as then; {} requests finished, {} failed, {} out of time, {} cancelled{}\n", steps,
             counts.finished, counts.failed, counts.expired, counts.cancelled,
             left_over == 0 ? "" : fmt::format("; the last {} bytes are an entry that is cut off", left_over));
  return 0;
}

}  // namespace

VerbRun prepare_replay(CLI::App& app) {
  auto options = std::make_shared<ReplayOptions>();
  app.add_option("file", options->file, "what up --record or serve --record wrote")->required();
  app.add_flag("--json", options->json, "one JSON object a line");
  app.footer(
      "Asks an engine without a model what a scheduler was asked, and compares each step with the one that was sent\n"
      "then. Prints what happened when, in milliseconds since the scheduler began. A record that a crash cut off "
      "counts "
      "up\n"
      "to its last whole entry.\n\n"
      "  troupe serve --record run.record examples/models/tutor\n"
      "  troupe replay run.record\n\n"
      "Exit codes: 0 the same, 1 another decision or no record.");
  return [options] { return run_replay(*options); };
}

}  // namespace troupe::cluster
