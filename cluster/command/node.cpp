#include "cluster/node.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "cluster/command/verbs.h"
#include "cluster/secret.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

struct NodeVerbOptions {
  NodeOptions node;
  std::vector<std::string> limits;
  std::string log_level = "info";
  std::string log_format = "text";
};

Result<void> apply_limit(Limits& limits, const std::string& text) {
  const std::size_t equals = text.find('=');
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const char* begin = equals == std::string::npos ? end : text.data() + equals + 1;
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error != std::errc() || stop != end) {
    return invalid_argument("--limit " + printable(text) + " is not of the form name=number", "limit");
  }
  return set_limit(limits, text.substr(0, equals), value);
}

int run_node_verb(NodeVerbOptions& options) {
  const auto logging = start_logging(options.node.name, options.log_level, options.log_format);
  Result<void> limits;
  for (const std::string& limit : options.limits) {
    if (limits.ok()) limits = apply_limit(options.node.limits, limit);
  }
  const auto secret = cluster_secret("");
  for (const Error* error : {logging.ok() ? nullptr : &logging.error(), limits.ok() ? nullptr : &limits.error(),
                             secret.ok() ? nullptr : &secret.error()}) {
    if (error == nullptr) continue;
    fmt::print(stderr, "troupe node: {}\n", error->message);
    return 2;
  }
  options.node.secret = *secret;
  unsetenv(kSecretVariable);  // not for whatever this process may start
  return run_node(options.node);
}

}  // namespace

VerbRun prepare_node(CLI::App& app) {
  auto options = std::make_shared<NodeVerbOptions>();
  app.add_option("--name", options->node.name, "the node's name in the topology file")->required();
  app.add_option("--root", options->node.root, "host:port of the root's fabric")->required();
  app.add_option("--listen", options->node.listen, "host:port on which this node's fabric listens")
      ->capture_default_str();
  app.add_option("--transports", options->node.transports, "UCX transports, such as tcp or shm,tcp");
  app.add_option("--limit", options->limits, "name=number, as under `limits:` in the topology file");
  app.add_option("--log-level", options->log_level, "trace, debug, info, warn, error")->capture_default_str();
  app.add_option("--log-format", options->log_format, "text or json")->capture_default_str();
  app.footer(
      "What launchers start; seldom typed. Joins the cluster whose root listens at --root, makes the actors that it\n"
      "is told to, and ends with it. The cluster's secret comes from $TROUPE_CLUSTER_SECRET.");
  return [options] { return run_node_verb(*options); };
}

}  // namespace troupe::cluster
