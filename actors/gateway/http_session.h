#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "actors/gateway/http_server.h"

namespace troupe {

class HttpSession;

// What the sessions of one server share. Sessions and responders hold it, so it outlives the HttpServer where an
// answer is still held by somebody.
struct HttpServerCore {
  explicit HttpServerCore(HttpServerOptions given) : options(std::move(given)) {}

  boost::asio::io_context io;
  const HttpServerOptions options;
  HttpServer::Handler handler;  // set before the first session, then constant
  HttpServer::Refusal refusal;
  std::atomic<bool> draining = false;

  std::mutex mutex;
  std::unordered_map<HttpSession*, std::weak_ptr<HttpSession>> sessions;
};

// One connection. All reading, and all state but the outbox, belongs to the strand; the outbox is where responders on
// other threads leave bytes under the mutex.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp,
                                                  boost::asio::strand<boost::asio::io_context::executor_type>>;

  // What follows the bytes handed to enqueue().
  enum class Then { kMore, kNextRequest, kClose };

  HttpSession(std::shared_ptr<HttpServerCore> core, Socket socket);
  ~HttpSession();

  void start();
  // Ends a connection that waits for a request; any thread.
  void close_if_idle();
  // Ends the connection whatever it does; any thread.
  void close();

  // Any thread. `bounded`: stream_buffer_bytes applies. False when the connection is gone or being cut off.
  bool enqueue(std::string bytes, Then then, bool bounded);
  // Keeps `gone` for when the client goes away before the answer is complete; false, leaving it alone, if it has.
  bool watch_gone(std::function<void()>& gone);
  bool draining() const { return core_->draining; }

 private:
  enum class Phase {
    kIdle,       // nothing of a request has arrived
    kReading,    // a request is arriving
    kAnswering,  // it is being answered; what arrives now is kept for later
    kLingering,  // the answer is out and ours is shut; what arrives is discarded so that no reset eats the answer
    kClosed,
  };
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  void watch();
  void on_watch(boost::system::error_code error, std::size_t bytes);
  void wait_for_request();
  void read_header();
  void on_header(boost::system::error_code error);
  void on_body(boost::system::error_code error);
  void dispatch();
  void refuse_read(boost::system::error_code error);
  void refuse(unsigned status, std::string_view message);
  void flush();
  void write_some();
  void on_written(boost::system::error_code error, std::size_t bytes);
  void answered(Then then);
  void linger();
  void shut();
  void arm(std::uint64_t timeout_ms);
  void disarm();
  void on_timeout();

  const std::shared_ptr<HttpServerCore> core_;
  Socket socket_;
  boost::asio::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  Phase phase_ = Phase::kIdle;
  std::uint64_t timer_setting_ = 0;
  bool watching_ = false;  // a read of watch() is under way
  bool timed_out_ = false;
  std::size_t discarded_bytes_ = 0;
  std::string writing_;
  std::size_t written_bytes_ = 0;  // of writing_

  std::mutex mutex_;
  std::string outbox_;
  std::size_t unsent_bytes_ = 0;  // outbox_ and the rest of writing_
  Then then_ = Then::kMore;
  bool flushing_ = false;  // a flush is posted, or a write is under way
  bool cut_off_ = false;
  bool closed_ = false;
  std::function<void()> gone_;
};

// "HTTP/1.1 200 OK\r\n...\r\n" without the body's framing.
std::string http_head(const HttpResponse& response, bool keep_alive);

}  // namespace troupe
