#include "cluster/http/http_client.h"

#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <optional>

namespace troupe::cluster {

HttpClient::HttpClient(HttpServer server, std::chrono::milliseconds timeout)
    : server_(std::move(server)), timeouts_{.wait = timeout} {}

Result<HttpAnswer> HttpClient::get(const std::string& target) { return run({.target = target}, {}); }

Result<HttpAnswer> HttpClient::post(const std::string& target, const std::string& json, const EventHandler& on_event) {
  return run({.post = true, .target = target, .body = json}, on_event);
}

Result<HttpAnswer> HttpClient::run(HttpRequest request, const EventHandler& on_event) {
  boost::asio::io_context io(1);
  HttpConnections connections(io, server_, timeouts_);
  boost::asio::signal_set interrupts(io);
  if (request.post) {
    interrupts.add(SIGINT);
    interrupts.async_wait([&](const boost::system::error_code& error, int) {
      if (!error) connections.cancel_all();
    });
  }
  std::optional<HttpOutcome> outcome;
  connections.start(
      std::move(request), [&](std::string_view data, auto) { return !on_event || on_event(data); },
      [&](HttpOutcome ended) { outcome = std::move(ended); });
  while (!outcome) io.run_one();
  switch (outcome->ending) {
    case HttpEnding::kComplete: break;
    case HttpEnding::kEnough:
    case HttpEnding::kCancelled: outcome->answer.stopped = true; break;
    case HttpEnding::kNoConnection:
      return unavailable("no gateway there: " + outcome->error.message +
                         "; is it up (troupe status), and is that its address?");
    case HttpEnding::kTimedOut:
    case HttpEnding::kCut:
    case HttpEnding::kMalformed: return std::move(outcome->error);
  }
  return std::move(outcome->answer);
}

}  // namespace troupe::cluster
