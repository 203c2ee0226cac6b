#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::cluster {

struct HttpServer {
  std::string host;
  std::uint16_t port = 80;
  std::string api_key;  // sent as a bearer token; may be empty
};

struct HttpTimeouts {
  std::chrono::milliseconds wait{120'000};  // for the connection, and for each piece of the answer
  std::chrono::milliseconds whole{0};       // from the start of a request to its end; 0 = without bound
};

struct HttpRequest {
  bool post = false;  // else GET
  std::string target;
  std::string body;  // JSON, of a POST
};

// What the server answered.
struct HttpAnswer {
  int status = 0;
  std::string body;         // of an answer that is no event stream
  std::string retry_after;  // that header as it came, or empty
  bool stopped = false;     // Ctrl-C, or the event handler, cut the stream off
};

// How a request ended.
enum class HttpEnding : std::uint8_t {
  kComplete,      // the answer is whole
  kEnough,        // the event handler said so
  kCancelled,     // by cancel_all()
  kNoConnection,  // nobody listens there
  kTimedOut,
  kCut,        // the connection broke before the answer was whole
  kMalformed,  // what came is no HTTP, or no event stream, or has no end
};

struct HttpOutcome {
  HttpEnding ending = HttpEnding::kComplete;
  HttpAnswer answer;  // as far as it came
  Error error;        // of the last four endings
};

// An asynchronous HTTP/1.1 client of one server. Connections are kept open and used again, the latest first; a request
// on one that the server closed meanwhile is sent again on a fresh one. Any number of requests may be under way.
// One thread: that of `io`, which outlives this object. REQUIRES: `io` does not run on after this object's end.
class HttpConnections {
 public:
  using Clock = std::chrono::steady_clock;
  // Called with the payload of each `data:` event and when its last byte was read; false = enough.
  using EventHandler = std::function<bool(std::string_view data, Clock::time_point arrived)>;
  using EndHandler = std::function<void(HttpOutcome outcome)>;

  HttpConnections(boost::asio::io_context& io, HttpServer server, HttpTimeouts timeouts);
  ~HttpConnections();
  HttpConnections(const HttpConnections&) = delete;
  HttpConnections& operator=(const HttpConnections&) = delete;

  // `on_end` is called exactly once, after the last event, and never from within start().
  void start(HttpRequest request, EventHandler on_event, EndHandler on_end);

  // Ends every request under way: each gets its on_end soon.
  void cancel_all();

 private:
  class Exchange;
  struct Connection;

  std::unique_ptr<Connection> take_idle();

  boost::asio::io_context& io_;
  const HttpServer server_;
  const HttpTimeouts timeouts_;
  const std::string place_;                                // host:port, as the Host header and messages have it
  std::vector<boost::asio::ip::tcp::endpoint> endpoints_;  // once resolved
  std::vector<std::unique_ptr<Connection>> idle_;
  std::unordered_set<Exchange*> live_;
};

}  // namespace troupe::cluster
