#include "cluster/command/bench_target.h"

#include <fmt/format.h>

#include <utility>

#include "cluster/http/api_key.h"
#include "cluster/http/http_url.h"
#include "cluster/topology.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

Result<BenchTarget> target_of_file(const std::string& file) {
  const TopologyReading reading = read_topology(file);
  if (!reading.topology) {
    std::string found;
    for (const Diagnostic& diagnostic : reading.diagnostics) found += diagnostic.to_string(file) + "\n";
    return invalid_argument(found + "a server is named by http://HOST:PORT or by the topology file of its cluster");
  }
  const GatewayPlace gateway = reading.topology->place.gateway.value_or(GatewayPlace{});
  BenchTarget target;
  target.server.port = *gateway.port;
  if (target.server.port == 0) {
    return invalid_argument(one_line(file) + ": the gateway listens on any free port; name it as http://HOST:PORT");
  }
  const bool everywhere = *gateway.host == "0.0.0.0" || *gateway.host == "::";
  target.server.host = everywhere ? "127.0.0.1" : *gateway.host;
  TROUPE_ASSIGN_OR_RETURN(target.server.api_key, read_api_key(*gateway.api_key_file));
  const bool v6 = target.server.host.find(':') != std::string::npos;
  target.url =
      fmt::format(fmt::runtime(v6 ? "http://[{}]:{}" : "http://{}:{}"), target.server.host, target.server.port);
  return target;
}

Result<BenchTarget> target_of_url(const std::string& text) {
  TROUPE_ASSIGN_OR_RETURN(HttpUrl url, parse_http_url(text));
  return BenchTarget{.server = {std::move(url.host), url.port, ""}, .root = std::move(url.root), .url = one_line(text)};
}

}  // namespace

Result<BenchTarget> bench_target(const std::string& url_or_file, const std::string& api_key,
                                 const std::string& api_key_file) {
  if (!api_key.empty() && !api_key_file.empty()) {
    return invalid_argument("--api-key and --api-key-file exclude each other");
  }
  if (!api_key.empty() && !is_api_key(api_key)) return invalid_argument("--api-key is not printable ASCII");
  const bool is_url = url_or_file.find("://") != std::string::npos;
  TROUPE_ASSIGN_OR_RETURN(BenchTarget target, is_url ? target_of_url(url_or_file) : target_of_file(url_or_file));
  if (!api_key.empty()) target.server.api_key = api_key;
  if (!api_key_file.empty()) {
    TROUPE_ASSIGN_OR_RETURN(target.server.api_key, read_api_key(api_key_file));
  }
  return target;
}

}  // namespace troupe::cluster
