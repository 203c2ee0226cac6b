#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/json/object.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "actors/gateway/http_server.h"
#include "actors/gateway/served_model.h"

namespace troupe::testing {

// A directory with a tokenizer of one token a byte (ids 0..255), <|im_start|> = 256, <|im_end|> = 257 and ChatML.
class ByteModelDirectory {
 public:
  ByteModelDirectory();
  ~ByteModelDirectory();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline constexpr std::uint32_t kByteVocabulary = 258;
inline constexpr std::uint32_t kImEnd = 257;

// The id of the token that is this byte.
std::uint32_t byte_token(const ServedModel& model, char byte);
std::vector<std::uint32_t> byte_tokens(const ServedModel& model, std::string_view text);

// The byte model, "byte-model", 512 tokens long; or the same without a tokenizer.
std::shared_ptr<ServedModel> byte_model();
std::shared_ptr<ServedModel> id_model();

struct ClientResponse {
  unsigned status = 0;
  std::string head;  // status line and headers
  std::string body;  // chunks joined
  bool complete = false;

  std::string header(std::string_view name) const;
  boost::json::object json() const;
  std::vector<std::string> events() const;  // what follows "data: "
};

// A blocking HTTP client on one connection. Throws on errors of the socket; reads give up after 30 s.
class Client {
 public:
  explicit Client(std::uint16_t port);

  void send(std::string_view bytes);
  void get(std::string_view path, std::string_view headers = {});
  void post(std::string_view path, std::string_view body, std::string_view headers = {});
  // The next whole response; `complete` is false when the connection ended inside it. `head`: to a HEAD request.
  ClientResponse read(bool head = false);
  // Reads until `text` has been seen.
  void read_until(std::string_view text);
  // Everything until the connection ends.
  std::string read_all();
  void close();
  boost::asio::ip::tcp::socket& socket() { return socket_; }

 private:
  bool fill();

  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_{io_};
  std::string buffer_;
};

}  // namespace troupe::testing
