#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

namespace troupe::cluster {

// A server on 127.0.0.1 that answers exactly the bytes it is told to, for tests of HTTP clients. Its own thread.
class ScriptedServer {
 public:
  struct Reply {
    std::string bytes;
    bool close = true;  // else the connection stays open, and may bring another request
  };
  // Called in the server's thread with each request's head and body, and how many came before it.
  using Script = std::function<Reply(std::size_t number, const std::string& request)>;

  explicit ScriptedServer(Script script);
  ~ScriptedServer();

  std::uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  std::size_t requests() const { return requests_; }
  std::size_t connections() const { return connections_; }

 private:
  struct Session;

  void accept();

  Script script_;
  boost::asio::io_context io_{1};
  boost::asio::ip::tcp::acceptor acceptor_;
  std::uint16_t port_;
  std::atomic<std::size_t> requests_{0};
  std::atomic<std::size_t> connections_{0};
  std::thread thread_;
};

// A whole answer with a Content-Length.
std::string http_answer(int status, const std::string& content_type, const std::string& body,
                        const std::string& headers = "");

// The head of an event stream, and one chunk of its body.
std::string stream_head();
std::string chunk(const std::string& data);
inline constexpr const char* kLastChunk = "0\r\n\r\n";

// A whole streamed completion of so many pieces, with a usage chunk.
std::string completion_stream(int pieces, int prompt_tokens, int cached_tokens = 0);

}  // namespace troupe::cluster
