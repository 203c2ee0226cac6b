#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "cluster/http/http_connections.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// Asks a gateway one thing at a time, and waits for the answer. One thread.
class HttpClient {
 public:
  // Called with the payload of each `data:` event; false = enough.
  using EventHandler = std::function<bool(std::string_view data)>;

  // `timeout` bounds connecting and each wait for more bytes.
  HttpClient(HttpServer server, std::chrono::milliseconds timeout);

  Result<HttpAnswer> get(const std::string& target);

  // Posts JSON. Ctrl-C (SIGINT) while it runs ends the request and closes the connection, which makes the gateway
  // give up the generation; the process lives on.
  Result<HttpAnswer> post(const std::string& target, const std::string& json, const EventHandler& on_event);

 private:
  Result<HttpAnswer> run(HttpRequest request, const EventHandler& on_event);

  HttpServer server_;
  HttpTimeouts timeouts_;
};

}  // namespace troupe::cluster
