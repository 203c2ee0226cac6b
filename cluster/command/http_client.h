#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe::cluster {

// What the gateway answered.
struct HttpAnswer {
  int status = 0;
  std::string body;      // of an answer that is no event stream
  bool stopped = false;  // Ctrl-C, or the event handler, cut the stream off
};

// A blocking HTTP/1.1 client of the gateway, one connection a request. One thread.
class HttpClient {
 public:
  // Called with the payload of each `data:` event; false = enough.
  using EventHandler = std::function<bool(std::string_view data)>;

  // `api_key` may be empty. `timeout` bounds connecting and each wait for more bytes.
  HttpClient(std::string host, std::uint16_t port, std::string api_key, std::chrono::milliseconds timeout);

  Result<HttpAnswer> get(const std::string& target);

  // Posts JSON. Ctrl-C (SIGINT) while it runs ends the request and closes the connection, which makes the gateway
  // give up the generation; the process lives on.
  Result<HttpAnswer> post(const std::string& target, const std::string& json, const EventHandler& on_event);

 private:
  class Exchange;

  std::string host_;
  std::uint16_t port_;
  std::string api_key_;
  std::chrono::milliseconds timeout_;
};

}  // namespace troupe::cluster
