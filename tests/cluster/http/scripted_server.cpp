#include "tests/cluster/http/scripted_server.h"

#include <fmt/format.h>

#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>
#include <memory>

namespace troupe::cluster {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;
using boost::system::error_code;

struct ScriptedServer::Session : std::enable_shared_from_this<Session> {
  Session(ScriptedServer& owner, Tcp::socket accepted) : server(owner), socket(std::move(accepted)) {}

  void read_head() {
    asio::async_read_until(socket, asio::dynamic_buffer(buffer), "\r\n\r\n",
                           [self = shared_from_this()](error_code error, std::size_t bytes) {
                             if (!error) self->read_body(bytes);
                           });
  }

  void read_body(std::size_t head_bytes) {
    std::size_t whole = head_bytes;
    if (const auto at = buffer.find("Content-Length: "); at < head_bytes) whole += std::stoul(buffer.substr(at + 16));
    const std::size_t missing = whole > buffer.size() ? whole - buffer.size() : 0;
    asio::async_read(socket, asio::dynamic_buffer(buffer), asio::transfer_exactly(missing),
                     [self = shared_from_this(), whole](error_code error, std::size_t) {
                       if (!error) self->answer(whole);
                     });
  }

  void answer(std::size_t whole) {
    reply = server.script_(server.requests_++, buffer.substr(0, whole));
    buffer.erase(0, whole);
    asio::async_write(socket, asio::buffer(reply.bytes), [self = shared_from_this()](error_code error, std::size_t) {
      if (error) return;
      if (!self->reply.close) return self->read_head();
      error_code ignored;
      self->socket.shutdown(Tcp::socket::shutdown_both, ignored);
    });
  }

  ScriptedServer& server;
  Tcp::socket socket;
  std::string buffer;
  Reply reply;
};

ScriptedServer::ScriptedServer(Script script)
    : script_(std::move(script)), acceptor_(io_, Tcp::endpoint(asio::ip::address_v4::loopback(), 0)) {
  port_ = acceptor_.local_endpoint().port();
  accept();
  thread_ = std::thread([this] { io_.run(); });
}

ScriptedServer::~ScriptedServer() {
  io_.stop();
  thread_.join();
}

void ScriptedServer::accept() {
  acceptor_.async_accept([this](error_code error, Tcp::socket socket) {
    if (error) return;
    ++connections_;
    std::make_shared<Session>(*this, std::move(socket))->read_head();
    accept();
  });
}

std::string http_answer(int status, const std::string& content_type, const std::string& body,
                        const std::string& headers) {
  return fmt::format("HTTP/1.1 {} Any\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}\r\n{}", status, content_type,
                     body.size(), headers, body);
}

std::string stream_head() {
  return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
}

std::string chunk(const std::string& data) { return fmt::format("{:x}\r\n{}\r\n", data.size(), data); }

std::string completion_stream(int pieces, int prompt_tokens, int cached_tokens) {
  std::string bytes = stream_head();
  for (int i = 0; i < pieces; ++i) bytes += chunk("data: {\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n");
  bytes +=
      chunk(fmt::format("data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{},\"completion_tokens\":{},"
                        "\"prompt_tokens_details\":{{\"cached_tokens\":{}}}}}}}\n\n",
                        prompt_tokens, pieces, cached_tokens));
  return bytes + chunk("data: [DONE]\n\n") + kLastChunk;
}

}  // namespace troupe::cluster
