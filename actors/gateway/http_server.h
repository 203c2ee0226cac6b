#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe {

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string method;
  std::string path;   // without the query, percent-decoded
  std::string query;  // as sent
  std::vector<HttpHeader> headers;
  std::string body;
  std::chrono::steady_clock::time_point arrival;

  // Value of the first header of this name (any case), or empty.
  std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers;
  std::string body;
};

// Where one request is answered: either send(), or begin_stream(), any number of write() and then finish() or abort().
// Thread-safe. Calls after the end, or after the client has gone, do nothing. Dropping a responder without an answer
// cuts the connection.
class HttpResponder {
 public:
  virtual ~HttpResponder() = default;

  virtual void send(HttpResponse response) = 0;

  // Sends status and headers of a body that comes piece by piece; `response.body` is its first piece.
  virtual void begin_stream(HttpResponse response) = 0;
  // False when the client is gone, or was cut off because more than Limits::stream_buffer_bytes wait for it.
  virtual bool write(std::string_view piece) = 0;
  // Ends the body cleanly.
  virtual void finish() = 0;
  // Sends what was written, then cuts the connection so that no client can take the body for complete.
  virtual void abort() = 0;

  // `gone` runs once, on any thread, if the client goes away before the answer is complete; at once if it has already.
  virtual void on_gone(std::function<void()> gone) = 0;
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // a numeric address or a name; [::1] is written ::1
  std::uint16_t port = 0;          // 0 = any free one
  std::size_t io_threads = 2;
  Limits limits;
};

// HTTP/1.1 server: thousands of connections on a few threads, each bounded by the http_* limits. Pipelined requests
// are answered in order. Thread-safe; destruction stops it.
class HttpServer {
 public:
  // Answers a well-formed request. Runs on an I/O thread: hand anything slow to somebody else.
  using Handler = std::function<void(HttpRequest, std::shared_ptr<HttpResponder>)>;
  // The answer to a request that never became one: 400, 408, 413, 417, 431, 503.
  using Refusal = std::function<HttpResponse(unsigned status, std::string_view message)>;

  // Binds the address (SO_REUSEADDR) without accepting yet. The error names the address.
  static Result<std::unique_ptr<HttpServer>> bind(HttpServerOptions options);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Begins to accept. REQUIRES: called once.
  void start(Handler handler, Refusal refusal);

  // The address in use, "127.0.0.1:8080".
  const std::string& address() const;
  std::uint16_t port() const;

  std::size_t connections() const;

  // Accepts no more connections and ends idle ones; the others end after the answer that is under way.
  void drain();

  // Ends everything and waits for the I/O threads. REQUIRES: not called from a Handler.
  void stop();

 private:
  struct Acceptor;

  explicit HttpServer(std::unique_ptr<Acceptor> acceptor);

  std::unique_ptr<Acceptor> acceptor_;
};

}  // namespace troupe
