#include "cluster/http/http_connections.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>
#include <utility>

#include "cluster/http/sse_parser.h"

namespace troupe::cluster {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t kMaxBodyBytes = 64 << 20;  // of an answer that is no event stream
constexpr std::size_t kChunkBytes = 16 << 10;

std::string place_of(const HttpServer& server) {
  const bool v6 = server.host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", server.host, v6 ? "]" : "", server.port);
}

}  // namespace

struct HttpConnections::Connection {
  explicit Connection(asio::io_context& io) : socket(io) {}

  Tcp::socket socket;
  boost::beast::flat_buffer buffer;
};

// One request and its answer. Exactly one operation is under way at any time, and every handler asks stopped() before
// it starts the next one: interrupting the operation is enough to end the exchange.
class HttpConnections::Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(HttpConnections& owner, HttpRequest request, EventHandler on_event, EndHandler on_end)
      : owner_(owner),
        request_(std::move(request)),
        on_event_(std::move(on_event)),
        on_end_(std::move(on_end)),
        timer_(owner.io_),
        resolver_(owner.io_),
        started_(Clock::now()) {
    head_ = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: troupe/" TROUPE_VERSION "\r\nAccept: {}\r\n",
                        request_.post ? "POST" : "GET", request_.target, owner_.place_,
                        request_.post ? "text/event-stream, application/json" : "*/*");
    if (!owner_.server_.api_key.empty()) head_ += "Authorization: Bearer " + owner_.server_.api_key + "\r\n";
    if (request_.post) {
      head_ += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", request_.body.size());
    }
    head_ += "\r\n";
  }

  void begin() {
    extend_deadline();
    watch_deadline();
    connection_ = owner_.take_idle();
    reused_ = connection_ != nullptr;
    if (reused_) return write();
    open();
  }

  void cancel() {
    cancelled_ = true;
    interrupt();
  }

 private:
  // Binds a member as a handler that keeps this object alive.
  template <class Member>
  auto then(Member member) {
    return [self = shared_from_this(), member](const error_code& error, auto&&... rest) {
      (self.get()->*member)(error, std::forward<decltype(rest)>(rest)...);
    };
  }

  void open() {
    connection_ = std::make_unique<Connection>(owner_.io_);
    if (!owner_.endpoints_.empty()) return connect();
    resolver_.async_resolve(owner_.server_.host, std::to_string(owner_.server_.port), then(&Exchange::on_resolved));
  }

  void on_resolved(const error_code& error, const Tcp::resolver::results_type& found) {
    if (stopped() || error) return fail_connection(error);
    owner_.endpoints_.assign(found.begin(), found.end());
    connect();
  }

  void connect() {
    asio::async_connect(
        connection_->socket, owner_.endpoints_,
        [self = shared_from_this()](const error_code& error, const Tcp::endpoint&) { self->on_connected(error); });
  }

  void on_connected(const error_code& error) {
    if (stopped() || error) return fail_connection(error);
    error_code ignored;
    connection_->socket.set_option(Tcp::no_delay(true), ignored);
    write();
  }

  void write() {
    extend_deadline();
    const std::array buffers{asio::buffer(head_), asio::buffer(request_.body)};
    asio::async_write(connection_->socket, buffers, then(&Exchange::on_written));
  }

  void on_written(const error_code& error, std::size_t) {
    if (!stopped() && error && reused_) return retry();
    // A server may answer and close before it has read all of a request that it refuses: its answer says more than
    // the error of our write does.
    if (stopped() || (error && error != asio::error::broken_pipe && error != asio::error::connection_reset)) {
      return fail("send", error);
    }
    parser_.emplace();
    parser_->body_limit(boost::none);
    extend_deadline();
    http::async_read_header(connection_->socket, connection_->buffer, *parser_, then(&Exchange::on_header));
  }

  void on_header(const error_code& error, std::size_t) {
    if (!stopped() && reused_ && !parser_->got_some() && connection_->buffer.size() == 0 && error) return retry();
    if (stopped() || error) return fail("read the answer's header", error);
    HttpAnswer& answer = outcome_.answer;
    answer.status = static_cast<int>(parser_->get().result_int());
    answer.retry_after = parser_->get()[http::field::retry_after];
    is_stream_ = parser_->get()[http::field::content_type].starts_with("text/event-stream");
    read_some();
  }

  void read_some() {
    if (stopped()) return fail("read the answer", {});
    if (parser_->is_done()) return complete();
    parser_->get().body().data = chunk_.data();
    parser_->get().body().size = chunk_.size();
    extend_deadline();
    http::async_read_some(connection_->socket, connection_->buffer, *parser_, then(&Exchange::on_read));
  }

  void on_read(error_code error, std::size_t) {
    const Clock::time_point arrived = Clock::now();
    if (error == http::error::need_buffer) error = {};
    if (stopped() || error) return fail("read the answer", error);
    const std::string_view bytes(chunk_.data(), chunk_.size() - parser_->get().body().size);
    if (!is_stream_) {
      outcome_.answer.body += bytes;
      if (outcome_.answer.body.size() > kMaxBodyBytes) return malformed("sends a body without end");
      return read_some();
    }
    auto more = events_.add(bytes, [&](std::string_view data) { return on_event_(data, arrived); });
    if (!more.ok()) return malformed(more.error().message);
    if (!*more) return end(HttpEnding::kEnough);
    read_some();
  }

  void complete() {
    if (parser_->keep_alive()) {
      parser_.reset();
      owner_.idle_.push_back(std::move(connection_));
    }
    end(HttpEnding::kComplete);
  }

  // The server closed an idle connection while this request was on its way: it has not seen it.
  void retry() {
    reused_ = false;
    parser_.reset();
    extend_deadline();
    open();
  }

  bool stopped() const { return cancelled_ || timed_out_; }

  void extend_deadline() {
    deadline_ = Clock::now() + owner_.timeouts_.wait;
    if (owner_.timeouts_.whole.count() > 0) deadline_ = std::min(deadline_, started_ + owner_.timeouts_.whole);
  }

  // One timer a request: the deadline moves with every piece, and the timer looks again where it has moved to.
  void watch_deadline() {
    timer_.expires_at(deadline_);
    timer_.async_wait([weak = weak_from_this()](const error_code& error) {
      const auto self = weak.lock();
      if (error || !self || self->ended_) return;
      if (Clock::now() < self->deadline_) return self->watch_deadline();
      self->timed_out_ = true;
      self->interrupt();
    });
  }

  void interrupt() {
    resolver_.cancel();
    error_code ignored;
    if (connection_) connection_->socket.cancel(ignored);
  }

  void fail_connection(const error_code& error) {
    if (stopped()) return fail("connect", error);
    outcome_.error = unavailable("cannot connect to " + owner_.place_ + ": " + error.message());
    end(HttpEnding::kNoConnection);
  }

  void fail(std::string_view what, const error_code& error) {
    if (cancelled_) return end(HttpEnding::kCancelled);
    if (timed_out_) {
      const auto& timeouts = owner_.timeouts_;
      const bool whole = timeouts.whole.count() > 0 && Clock::now() >= started_ + timeouts.whole;
      outcome_.error = deadline_exceeded(
          whole ? fmt::format("{} had not answered whole after {} ms", owner_.place_, timeouts.whole.count())
                : fmt::format("{} sent nothing for {} ms; raise --timeout for slow models", owner_.place_,
                              timeouts.wait.count()));
      return end(HttpEnding::kTimedOut);
    }
    const bool cut = error.category() != http::make_error_code(http::error::bad_method).category() ||
                     error == http::error::end_of_stream || error == http::error::partial_message;
    if (!cut) return malformed("does not answer in HTTP: " + error.message());
    outcome_.error = unavailable(fmt::format("cannot {} ({}): {}", what, owner_.place_, error.message()));
    end(HttpEnding::kCut);
  }

  void malformed(const std::string& what) {
    outcome_.error = corrupt_data(owner_.place_ + " " + what);
    end(HttpEnding::kMalformed);
  }

  void end(HttpEnding ending) {
    ended_ = true;
    timer_.cancel();
    connection_.reset();
    owner_.live_.erase(this);
    outcome_.ending = ending;
    std::exchange(on_end_, nullptr)(std::move(outcome_));
  }

  HttpConnections& owner_;
  HttpRequest request_;
  std::string head_;
  EventHandler on_event_;
  EndHandler on_end_;
  asio::steady_timer timer_;
  Tcp::resolver resolver_;
  std::unique_ptr<Connection> connection_;
  std::optional<http::response_parser<http::buffer_body>> parser_;
  SseParser events_;
  HttpOutcome outcome_;
  const Clock::time_point started_;
  Clock::time_point deadline_;
  std::array<char, kChunkBytes> chunk_;
  bool reused_ = false;
  bool is_stream_ = false;
  bool cancelled_ = false;
  bool timed_out_ = false;
  bool ended_ = false;
};

HttpConnections::HttpConnections(asio::io_context& io, HttpServer server, HttpTimeouts timeouts)
    : io_(io), server_(std::move(server)), timeouts_(timeouts), place_(place_of(server_)) {}

HttpConnections::~HttpConnections() = default;

void HttpConnections::start(HttpRequest request, EventHandler on_event, EndHandler on_end) {
  auto exchange = std::make_shared<Exchange>(*this, std::move(request), std::move(on_event), std::move(on_end));
  live_.insert(exchange.get());
  exchange->begin();
}

void HttpConnections::cancel_all() {
  // Cancelling only asks; the exchanges leave the set later, from their handlers.
  for (Exchange* exchange : live_) exchange->cancel();
}

std::unique_ptr<HttpConnections::Connection> HttpConnections::take_idle() {
  while (!idle_.empty()) {
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    error_code error;
    connection->socket.non_blocking(true, error);
    char byte;
    connection->socket.receive(asio::buffer(&byte, 1), Tcp::socket::message_peek, error);
    // Nothing to read is right; an end, an error or bytes that nobody asked for make it useless.
    if (error == asio::error::would_block && connection->buffer.size() == 0) return connection;
  }
  return nullptr;
}

}  // namespace troupe::cluster
