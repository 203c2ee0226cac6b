#include "actors/gateway/http_session.h"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/url/decode_view.hpp>
#include <boost/url/pct_string_view.hpp>
#include <ctime>

#include "runtime/base/log.h"

namespace troupe {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr std::size_t kReadBytes = 4096;
// What is still read and dropped after an early refusal: closing at once would reset the connection, and a client
// that is still sending would never see the answer.
constexpr std::uint64_t kLingerMs = 2'000;
constexpr std::size_t kLingerBytes = 64 << 20;

// A value that cannot end the header early.
std::string header_value(std::string value) {
  for (char& c : value) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return value;
}

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[40];
  const std::size_t length = std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return {text, length};
}

// The answer to one request; frames the body as the request allows.
class Exchange final : public HttpResponder {
 public:
  Exchange(std::shared_ptr<HttpSession> session, bool head, bool http10, bool keep_alive)
      : session_(std::move(session)), head_(head), http10_(http10), keep_alive_(keep_alive) {}

  ~Exchange() override { abort(); }

  void send(HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kWaiting) return;
    state_ = State::kDone;
    const bool keep_alive = keep_alive_ && !session_->draining();
    std::string bytes = http_head(response, keep_alive);
    bytes += response.status == 204 ? "\r\n" : "Content-Length: " + std::to_string(response.body.size()) + "\r\n\r\n";
    if (!head_) bytes += response.body;
    session_->enqueue(std::move(bytes), next(keep_alive), false);
  }

  void begin_stream(HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kWaiting) return;
    state_ = State::kStreaming;
    keep_alive_ = keep_alive_ && !http10_ && !session_->draining();
    std::string bytes = http_head(response, keep_alive_);
    bytes += http10_ ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n";
    bytes += framed(response.body);
    session_->enqueue(std::move(bytes), HttpSession::Then::kMore, true);
  }

  bool write(std::string_view piece) override {
    const std::lock_guard lock(mutex_);
    return state_ == State::kStreaming && session_->enqueue(framed(piece), HttpSession::Then::kMore, true);
  }

  void finish() override {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kStreaming) return;
    state_ = State::kDone;
    session_->enqueue(http10_ || head_ ? "" : "0\r\n\r\n", next(keep_alive_), false);
  }

  void abort() override {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kDone) return;
    state_ = State::kDone;
    session_->enqueue("", HttpSession::Then::kClose, false);
  }

  void on_gone(std::function<void()> gone) override {
    {
      const std::lock_guard lock(mutex_);
      if (state_ == State::kDone || session_->watch_gone(gone)) return;
    }
    gone();
  }

 private:
  enum class State { kWaiting, kStreaming, kDone };

  static HttpSession::Then next(bool keep_alive) {
    return keep_alive ? HttpSession::Then::kNextRequest : HttpSession::Then::kClose;
  }

  std::string framed(std::string_view piece) const {
    // An empty chunk would end the body.
    if (piece.empty() || head_) return {};
    if (http10_) return std::string(piece);
    std::string bytes = fmt::format("{:x}\r\n", piece.size());
    bytes.reserve(bytes.size() + piece.size() + 2);
    bytes += piece;
    bytes += "\r\n";
    return bytes;
  }

  const std::shared_ptr<HttpSession> session_;
  const bool head_;
  const bool http10_;
  std::mutex mutex_;
  bool keep_alive_;
  State state_ = State::kWaiting;
};

}  // namespace

std::string http_head(const HttpResponse& response, bool keep_alive) {
  const std::string_view reason = http::obsolete_reason(static_cast<http::status>(response.status));
  std::string bytes = fmt::format("HTTP/1.1 {} {}\r\nServer: troupe\r\nDate: {}\r\nConnection: {}\r\n", response.status,
                                  reason, http_date(), keep_alive ? "keep-alive" : "close");
  if (!response.content_type.empty()) bytes += "Content-Type: " + header_value(response.content_type) + "\r\n";
  for (const HttpHeader& header : response.headers) bytes += header.name + ": " + header_value(header.value) + "\r\n";
  return bytes;
}

HttpSession::HttpSession(std::shared_ptr<HttpServerCore> core, Socket socket)
    : core_(std::move(core)),
      socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      // Whatever the parser accepts as a header must fit; bodies go straight into their string.
      buffer_(core_->options.limits.http_header_bytes + kReadBytes) {}

HttpSession::~HttpSession() {
  const std::lock_guard lock(core_->mutex);
  core_->sessions.erase(this);
}

void HttpSession::start() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->wait_for_request(); });
}

void HttpSession::close_if_idle() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kIdle) self->shut();
  });
}

void HttpSession::close() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->shut(); });
}

// One read is always under way while a request is answered: it notices that the client has gone, and keeps the
// beginning of a pipelined request.
void HttpSession::watch() {
  if (watching_ || phase_ == Phase::kClosed) return;
  std::size_t room = kReadBytes;
  if (phase_ == Phase::kLingering) {
    buffer_.clear();
  } else {
    room = std::min(room, buffer_.max_size() - buffer_.size());
    if (room == 0) return;  // read on when the pipelined request's turn comes
  }
  watching_ = true;
  socket_.async_read_some(buffer_.prepare(room),
                          [self = shared_from_this()](error_code error, std::size_t n) { self->on_watch(error, n); });
}

void HttpSession::on_watch(error_code error, std::size_t bytes) {
  watching_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error == asio::error::operation_aborted && phase_ == Phase::kIdle) return read_header();
  if (error) return shut();
  if (phase_ == Phase::kLingering) {
    discarded_bytes_ += bytes;
    return discarded_bytes_ > kLingerBytes ? shut() : watch();
  }
  buffer_.commit(bytes);
  if (phase_ == Phase::kIdle) return read_header();
  watch();
}

void HttpSession::wait_for_request() {
  phase_ = Phase::kIdle;
  if (core_->draining) return shut();
  arm(core_->options.limits.http_idle_timeout_ms);
  if (buffer_.size() == 0) return watch();
  if (!watching_) return read_header();
  // A pipelined request is here already, perhaps whole: the read under way would wait for what may never come.
  error_code ignored;
  socket_.cancel(ignored);
}

void HttpSession::read_header() {
  phase_ = Phase::kReading;
  parser_.emplace();
  parser_->header_limit(
      static_cast<std::uint32_t>(std::min<std::uint64_t>(core_->options.limits.http_header_bytes, UINT32_MAX)));
  parser_->body_limit(core_->options.limits.http_body_bytes);
  arm(core_->options.limits.http_idle_timeout_ms);
  http::async_read_header(socket_, buffer_, *parser_,
                          [self = shared_from_this()](error_code error, std::size_t) { self->on_header(error); });
}

void HttpSession::on_header(error_code error) {
  if (phase_ == Phase::kClosed) return;
  if (error) return refuse_read(error);
  const auto& message = parser_->get();
  if (message.version() != 10 && message.version() != 11)
    return refuse(400, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  if (message.version() == 11 && message.count(http::field::host) != 1) {
    return refuse(400, "an HTTP/1.1 request has exactly one Host header");
  }
  if (const auto expect = message.find(http::field::expect); expect != message.end()) {
    if (!boost::beast::iequals(expect->value(), "100-continue"))
      return refuse(417, "the only expectation met is 100-continue");
    if (!parser_->is_done()) enqueue("HTTP/1.1 100 Continue\r\n\r\n", Then::kMore, false);
  }
  http::async_read(socket_, buffer_, *parser_,
                   [self = shared_from_this()](error_code body_error, std::size_t) { self->on_body(body_error); });
}

void HttpSession::on_body(error_code error) {
  if (phase_ == Phase::kClosed) return;
  if (error) return refuse_read(error);
  dispatch();
}

void HttpSession::dispatch() {
  disarm();
  phase_ = Phase::kAnswering;
  auto message = parser_->release();
  parser_.reset();
  HttpRequest request;
  request.arrival = std::chrono::steady_clock::now();
  request.method = message.method_string();
  const std::string_view target = message.target();
  const std::size_t question = target.find('?');
  const auto path = boost::urls::make_pct_string_view(target.substr(0, question));
  if (!path) return refuse(400, "the request target is not a valid path");
  request.path.assign(path->decode());
  if (question != std::string_view::npos) request.query = target.substr(question + 1);
  for (const auto& field : message) request.headers.push_back({field.name_string(), field.value()});
  const bool head = message.method() == http::verb::head;
  const bool http10 = message.version() == 10;
  const bool keep_alive = message.keep_alive() && !http10;
  request.body = std::move(message.body());
  watch();
  core_->handler(std::move(request), std::make_shared<Exchange>(shared_from_this(), head, http10, keep_alive));
}

void HttpSession::refuse_read(error_code error) {
  if (timed_out_) return refuse(408, "the request did not arrive within http_idle_timeout_ms");
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return refuse(431, fmt::format("the header is larger than the limit http_header_bytes of {}",
                                   core_->options.limits.http_header_bytes));
  }
  if (error == http::error::body_limit) {
    return refuse(413, fmt::format("the body is larger than the limit http_body_bytes of {}",
                                   core_->options.limits.http_body_bytes));
  }
  const bool malformed = error.category() == make_error_code(http::error::bad_method).category() &&
                         error != http::error::end_of_stream && error != http::error::partial_message;
  if (malformed) return refuse(400, "malformed HTTP request: " + error.message());
  shut();
}

void HttpSession::refuse(unsigned status, std::string_view message) {
  disarm();
  phase_ = Phase::kAnswering;
  parser_.reset();
  HttpResponse response = core_->refusal(status, message);
  response.status = status;
  std::string bytes = http_head(response, false);
  bytes += fmt::format("Content-Length: {}\r\n\r\n{}", response.body.size(), response.body);
  enqueue(std::move(bytes), Then::kClose, false);
}

bool HttpSession::enqueue(std::string bytes, Then then, bool bounded) {
  const std::lock_guard lock(mutex_);
  if (closed_ || cut_off_) return false;
  outbox_ += bytes;
  unsent_bytes_ += bytes.size();
  if (then != Then::kMore) {
    then_ = then;
    gone_ = nullptr;
  }
  cut_off_ = bounded && unsent_bytes_ > core_->options.limits.stream_buffer_bytes;
  if (cut_off_) {
    spdlog::warn("a client reads too slowly: {} bytes wait for it, more than stream_buffer_bytes; cut off",
                 unsent_bytes_);
    asio::post(socket_.get_executor(), [self = shared_from_this()] { self->shut(); });
    return false;
  }
  if (!flushing_) {
    flushing_ = true;
    asio::post(socket_.get_executor(), [self = shared_from_this()] { self->flush(); });
  }
  return true;
}

bool HttpSession::watch_gone(std::function<void()>& gone) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  gone_ = std::move(gone);
  return true;
}

void HttpSession::flush() {
  if (phase_ == Phase::kClosed) return;
  Then then = Then::kMore;
  {
    const std::lock_guard lock(mutex_);
    writing_.clear();
    std::swap(writing_, outbox_);
    written_bytes_ = 0;
    if (writing_.empty()) {
      flushing_ = false;
      then = std::exchange(then_, Then::kMore);
    }
  }
  if (!writing_.empty()) return write_some();
  answered(then);
}

void HttpSession::write_some() {
  arm(core_->options.limits.http_write_timeout_ms);
  socket_.async_write_some(
      asio::buffer(writing_.data() + written_bytes_, writing_.size() - written_bytes_),
      [self = shared_from_this()](error_code error, std::size_t n) { self->on_written(error, n); });
}

void HttpSession::on_written(error_code error, std::size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return shut();
  written_bytes_ += bytes;
  {
    const std::lock_guard lock(mutex_);
    unsent_bytes_ -= bytes;
  }
  if (written_bytes_ < writing_.size()) return write_some();
  // While a request is still arriving (100 Continue) the clock goes on for the request as a whole.
  if (phase_ == Phase::kAnswering) {
    disarm();
  } else if (phase_ == Phase::kReading) {
    arm(core_->options.limits.http_idle_timeout_ms);
  }
  flush();
}

void HttpSession::answered(Then then) {
  if (then == Then::kNextRequest) return wait_for_request();
  if (then == Then::kClose) linger();
}

void HttpSession::linger() {
  phase_ = Phase::kLingering;
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  arm(kLingerMs);
  watch();
}

void HttpSession::shut() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  disarm();
  error_code ignored;
  socket_.close(ignored);
  std::function<void()> gone;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    outbox_.clear();
    gone = std::exchange(gone_, nullptr);
  }
  if (gone) gone();
}

void HttpSession::arm(std::uint64_t timeout_ms) {
  timer_.expires_after(std::chrono::milliseconds(timeout_ms));
  // An expiry that was already queued when the timer was set again belongs to an earlier setting.
  timer_.async_wait([weak = weak_from_this(), setting = ++timer_setting_](error_code error) {
    const auto self = weak.lock();
    if (!error && self && self->timer_setting_ == setting) self->on_timeout();
  });
}

void HttpSession::disarm() {
  ++timer_setting_;
  timer_.cancel();
}

void HttpSession::on_timeout() {
  if (phase_ != Phase::kReading) return shut();
  timed_out_ = true;
  error_code ignored;
  socket_.cancel(ignored);  // the read ends with an error, which answers 408
}

}  // namespace troupe
