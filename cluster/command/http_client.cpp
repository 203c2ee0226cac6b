#include "cluster/command/http_client.h"

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <csignal>
#include <optional>

#include "cluster/command/sse_parser.h"

namespace troupe::cluster {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Tcp = asio::ip::tcp;

constexpr std::size_t kMaxBodyBytes = 64 << 20;  // of an answer that is no event stream

}  // namespace

// One request and its answer. Asynchronous operations run one at a time, each to its end, so that every wait has a
// deadline and Ctrl-C is heard during it.
class HttpClient::Exchange {
 public:
  Exchange(const HttpClient& client, bool interruptible)
      : client_(client), stream_(io_), interrupts_(io_), place_(client.host_ + ":" + std::to_string(client.port_)) {
    if (!interruptible) return;
    interrupts_.add(SIGINT);
    interrupts_.async_wait([this](const beast::error_code& error, int) {
      if (error) return;
      stopped_ = true;
      stream_.cancel();
    });
  }

  Result<HttpAnswer> run(http::request<http::string_body> request, const EventHandler& on_event) {
    TROUPE_RETURN_IF_ERROR(connect());
    if (stopped_) return stopped_answer();
    request.set(http::field::host, place_);
    request.set(http::field::user_agent, "troupe/" TROUPE_VERSION);
    if (!client_.api_key_.empty()) request.set(http::field::authorization, "Bearer " + client_.api_key_);
    request.prepare_payload();
    if (auto error = await([&](auto done) { http::async_write(stream_, request, done); }))
      return failure("send", error);

    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    if (auto error = await([&](auto done) { http::async_read_header(stream_, buffer_, parser, done); })) {
      return failure("read the answer's header", error);
    }
    HttpAnswer answer;
    answer.status = parser.get().result_int();
    const bool is_stream = parser.get()[http::field::content_type].starts_with("text/event-stream");
    SseParser events;
    std::array<char, 16 << 10> chunk;
    while (!parser.is_done()) {
      parser.get().body().data = chunk.data();
      parser.get().body().size = chunk.size();
      const auto error = await([&](auto done) { http::async_read_some(stream_, buffer_, parser, done); });
      if (error && error != http::error::need_buffer) return failure("read the answer", error);
      const std::string_view bytes(chunk.data(), chunk.size() - parser.get().body().size);
      if (!is_stream) {
        answer.body += bytes;
        if (answer.body.size() > kMaxBodyBytes) return corrupt_data(place_ + " sends a body without end");
        continue;
      }
      auto more = events.add(bytes, on_event);
      if (!more.ok()) return std::move(more).error().within(place_);
      if (!*more) {
        answer.stopped = true;
        break;
      }
    }
    return answer;
  }

 private:
  Result<void> connect() {
    Tcp::resolver resolver(io_);
    Tcp::resolver::results_type endpoints;
    beast::error_code error = await([&](auto done) {
      resolver.async_resolve(client_.host_, std::to_string(client_.port_),
                             [&endpoints, done](beast::error_code e, Tcp::resolver::results_type found) mutable {
                               endpoints = std::move(found);
                               done(e);
                             });
    });
    if (!error) error = await([&](auto done) { stream_.async_connect(endpoints, done); });
    if (error && !stopped_) {
      return unavailable("no gateway at " + place_ + ": " + error.message() +
                         "; is the cluster up (troupe status), and are --host and --port right?");
    }
    return {};
  }

  // Starts an operation and waits for its end, the deadline, or Ctrl-C.
  template <class Start>
  beast::error_code await(Start start) {
    std::optional<beast::error_code> result;
    io_.restart();  // it stops for good whenever an operation was its only work
    stream_.expires_after(client_.timeout_);
    start([&result](const beast::error_code& error, auto&&...) { result = error; });
    while (!result) io_.run_one();
    return *result;
  }

  Result<HttpAnswer> failure(const std::string& what, const beast::error_code& error) const {
    if (stopped_) return stopped_answer();
    if (error == beast::error::timeout) {
      return deadline_exceeded(place_ + " sent nothing for " + std::to_string(client_.timeout_.count()) +
                               " ms; raise --timeout for slow models");
    }
    return unavailable("cannot " + what + " (" + place_ + "): " + error.message());
  }

  static HttpAnswer stopped_answer() {
    HttpAnswer answer;
    answer.stopped = true;
    return answer;
  }

  const HttpClient& client_;
  asio::io_context io_{1};
  beast::tcp_stream stream_;
  asio::signal_set interrupts_;
  std::string place_;
  beast::flat_buffer buffer_;
  bool stopped_ = false;
};

HttpClient::HttpClient(std::string host, std::uint16_t port, std::string api_key, std::chrono::milliseconds timeout)
    : host_(std::move(host)), port_(port), api_key_(std::move(api_key)), timeout_(timeout) {}

Result<HttpAnswer> HttpClient::get(const std::string& target) {
  http::request<http::string_body> request(http::verb::get, target, 11);
  return Exchange(*this, false).run(std::move(request), {});
}

Result<HttpAnswer> HttpClient::post(const std::string& target, const std::string& json, const EventHandler& on_event) {
  http::request<http::string_body> request(http::verb::post, target, 11);
  request.set(http::field::content_type, "application/json");
  request.body() = json;
  return Exchange(*this, true).run(std::move(request), on_event);
}

}  // namespace troupe::cluster
