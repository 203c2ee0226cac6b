#include "actors/gateway/http_server.h"

#include <sys/resource.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/beast/core/string.hpp>
#include <thread>

#include "actors/gateway/http_session.h"
#include "runtime/base/log.h"

namespace troupe {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptBackoff{100};

// Debian's default of 1,024 descriptors is less than http_connections.
void raise_descriptor_limit(std::uint64_t connections) {
  constexpr std::uint64_t kOtherDescriptors = 1024;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, connections + kOtherDescriptors);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) spdlog::warn("cannot raise the limit of open files to {}", wanted);
}

std::string address_text(const tcp::endpoint& endpoint) {
  const std::string host = endpoint.address().to_string();
  return endpoint.address().is_v6() ? fmt::format("[{}]:{}", host, endpoint.port())
                                    : fmt::format("{}:{}", host, endpoint.port());
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const HttpHeader& header : headers) {
    if (boost::beast::iequals(header.name, name)) return header.value;
  }
  return {};
}

// The accept loop, on its own strand, and the threads.
struct HttpServer::Acceptor {
  explicit Acceptor(HttpServerOptions options)
      : core(std::make_shared<HttpServerCore>(std::move(options))),
        strand(asio::make_strand(core->io)),
        socket(strand),
        backoff(strand) {}

  void accept() {
    socket.async_accept(asio::make_strand(core->io), [this](error_code error, HttpSession::Socket accepted) {
      if (!socket.is_open()) return;
      if (!error) {
        admit(std::move(accepted));
        return accept();
      }
      if (error == asio::error::connection_aborted) return accept();
      // Out of descriptors: those in use will come back.
      spdlog::warn("cannot accept an HTTP connection: {}", error.message());
      backoff.expires_after(kAcceptBackoff);
      backoff.async_wait([this](error_code cancelled) {
        if (!cancelled) accept();
      });
    });
  }

  void admit(HttpSession::Socket accepted) {
    error_code ignored;
    accepted.set_option(tcp::no_delay(true), ignored);
    std::shared_ptr<HttpSession> session;
    {
      const std::lock_guard lock(core->mutex);
      if (core->sessions.size() < core->options.limits.http_connections) {
        session = std::make_shared<HttpSession>(core, std::move(accepted));
        core->sessions.emplace(session.get(), session);
      }
    }
    // Not under the mutex: the session may be over, and destroyed here, before start() has returned, and its
    // destructor takes the mutex.
    if (session) return session->start();
    HttpResponse refusal = core->refusal(503, "all http_connections are in use; try again later");
    refusal.status = 503;
    refusal.headers.push_back({"Retry-After", "1"});
    std::string bytes = http_head(refusal, false);
    bytes += fmt::format("Content-Length: {}\r\n\r\n{}", refusal.body.size(), refusal.body);
    accepted.non_blocking(true, ignored);
    accepted.write_some(asio::buffer(bytes), ignored);
    accepted.shutdown(tcp::socket::shutdown_send, ignored);
  }

  void stop_accepting() {
    core->draining = true;
    asio::post(strand, [this] {
      error_code ignored;
      socket.close(ignored);
      backoff.cancel();
    });
  }

  std::vector<std::shared_ptr<HttpSession>> sessions() {
    std::vector<std::shared_ptr<HttpSession>> alive;
    const std::lock_guard lock(core->mutex);
    for (const auto& [key, weak] : core->sessions) {
      if (auto session = weak.lock()) alive.push_back(std::move(session));
    }
    return alive;
  }

  std::shared_ptr<HttpServerCore> core;
  asio::strand<asio::io_context::executor_type> strand;
  asio::basic_socket_acceptor<tcp, asio::strand<asio::io_context::executor_type>> socket;
  asio::steady_timer backoff;
  std::string address;
  std::uint16_t port = 0;
  std::vector<std::thread> threads;
};

Result<std::unique_ptr<HttpServer>> HttpServer::bind(HttpServerOptions options) {
  const std::string wanted = options.host + " port " + std::to_string(options.port);
  auto acceptor = std::make_unique<Acceptor>(options);
  error_code error;
  tcp::resolver resolver(acceptor->core->io);
  const auto found = resolver.resolve(options.host, std::to_string(options.port),
                                      tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty()) {
    return invalid_argument("cannot listen on " + wanted + ": " + error.message() + "; give an address of this machine",
                            "listen");
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  auto& socket = acceptor->socket;
  socket.open(endpoint.protocol(), error);
  if (!error) socket.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) socket.bind(endpoint, error);
  if (!error) socket.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return unavailable("cannot listen on " + wanted + ": " + error.message() +
                       "; stop what uses it, or choose another address");
  }
  acceptor->address = address_text(socket.local_endpoint());
  acceptor->port = socket.local_endpoint().port();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(acceptor)));
}

HttpServer::HttpServer(std::unique_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}

HttpServer::~HttpServer() { stop(); }

void HttpServer::start(Handler handler, Refusal refusal) {
  HttpServerCore& core = *acceptor_->core;
  core.handler = std::move(handler);
  core.refusal = std::move(refusal);
  raise_descriptor_limit(core.options.limits.http_connections);
  asio::post(acceptor_->strand, [acceptor = acceptor_.get()] { acceptor->accept(); });
  for (std::size_t i = 0; i < core.options.io_threads; ++i) {
    acceptor_->threads.emplace_back([shared = acceptor_->core] { shared->io.run(); });
  }
}

const std::string& HttpServer::address() const { return acceptor_->address; }

std::uint16_t HttpServer::port() const { return acceptor_->port; }

std::size_t HttpServer::connections() const {
  const std::lock_guard lock(acceptor_->core->mutex);
  return acceptor_->core->sessions.size();
}

void HttpServer::drain() {
  acceptor_->stop_accepting();
  for (const auto& session : acceptor_->sessions()) session->close_if_idle();
}

void HttpServer::stop() {
  if (acceptor_->threads.empty()) return;
  acceptor_->stop_accepting();
  // A session that was admitted while the accept loop ended sees `draining` when it starts, and ends itself. With
  // every socket and timer closed the threads run out of work; nothing is left in the queue to hold the core.
  for (const auto& session : acceptor_->sessions()) session->close();
  for (std::thread& thread : acceptor_->threads) thread.join();
  acceptor_->threads.clear();
}

}  // namespace troupe
