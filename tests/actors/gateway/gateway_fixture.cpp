#include "tests/actors/gateway/gateway_fixture.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fstream>
#include <random>
#include <stdexcept>

namespace troupe::testing {
namespace {

namespace json = boost::json;

// GPT-2's printable stand-ins: bytes that are visible Latin-1 stand for themselves, the others follow from U+0100.
std::vector<std::string> byte_spellings() {
  std::vector<std::string> spellings;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const unsigned code = visible ? byte : next++;
    std::string text;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xc0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 0x3f));
    }
    spellings.push_back(text);
  }
  return spellings;
}

json::object special(std::uint32_t id, const char* text) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

const char kChatMl[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

}  // namespace

ByteModelDirectory::ByteModelDirectory() {
  path_ = std::filesystem::temp_directory_path() / ("troupe-gateway-" + std::to_string(std::random_device{}()));
  std::filesystem::create_directories(path_);
  json::object vocabulary;
  const auto spellings = byte_spellings();
  for (std::uint32_t byte = 0; byte < spellings.size(); ++byte) vocabulary[spellings[byte]] = byte;
  const json::object byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const json::object tokenizer{{"version", "1.0"},
                               {"truncation", nullptr},
                               {"padding", nullptr},
                               {"added_tokens", {special(256, "<|im_start|>"), special(kImEnd, "<|im_end|>")}},
                               {"normalizer", nullptr},
                               {"pre_tokenizer", byte_level},
                               {"post_processor", nullptr},
                               {"decoder", byte_level},
                               {"model",
                                {{"type", "BPE"},
                                 {"dropout", nullptr},
                                 {"unk_token", nullptr},
                                 {"continuing_subword_prefix", nullptr},
                                 {"end_of_word_suffix", nullptr},
                                 {"fuse_unk", false},
                                 {"byte_fallback", false},
                                 {"vocab", vocabulary},
                                 {"merges", json::array()}}}};
  std::ofstream(path_ / "tokenizer.json") << json::serialize(tokenizer);
  std::ofstream(path_ / "tokenizer_config.json")
      << json::serialize(json::object{{"chat_template", kChatMl}, {"eos_token", "<|im_end|>"}});
}

ByteModelDirectory::~ByteModelDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::uint32_t byte_token(const ServedModel&, char byte) { return static_cast<unsigned char>(byte); }

std::vector<std::uint32_t> byte_tokens(const ServedModel& model, std::string_view text) {
  std::vector<std::uint32_t> tokens;
  for (const char c : text) tokens.push_back(byte_token(model, c));
  return tokens;
}

std::shared_ptr<ServedModel> id_model() {
  auto model = std::make_shared<ServedModel>();
  model->name = "byte-model";
  model->vocab_size = kByteVocabulary;
  model->max_model_len = 512;
  model->eos_token_ids = {kImEnd};
  model->chat_template = unsupported("the model has no tokenizer", "messages");
  return model;
}

std::shared_ptr<ServedModel> byte_model() {
  const ByteModelDirectory directory;
  auto model = id_model();
  const auto loaded = load_text_parts(directory.path(), Limits{}, *model);
  if (!loaded.ok()) throw std::runtime_error(loaded.error().message);
  if (!model->chat_template.ok()) throw std::runtime_error(model->chat_template.error().message);
  return model;
}

std::string ClientResponse::header(std::string_view name) const {
  std::size_t at = head.find("\r\n");
  while (at != std::string::npos && at + 2 < head.size()) {
    const std::size_t begin = at + 2;
    at = head.find("\r\n", begin);
    const std::string line = head.substr(begin, at - begin);
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos && boost::beast::iequals(line.substr(0, colon), name)) return line.substr(colon + 2);
  }
  return {};
}

json::object ClientResponse::json() const { return json::parse(body).as_object(); }

std::vector<std::string> ClientResponse::events() const {
  std::vector<std::string> events;
  std::size_t at = 0;
  while (at < body.size()) {
    const std::size_t end = body.find("\n\n", at);
    if (body.compare(at, 6, "data: ") != 0 || end == std::string::npos)
      throw std::runtime_error("not an event: " + body.substr(at));
    events.push_back(body.substr(at + 6, end - at - 6));
    at = end + 2;
  }
  return events;
}

Client::Client(std::uint16_t port) {
  socket_.connect({boost::asio::ip::address_v4::loopback(), port});
  const timeval patience{30, 0};
  setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

void Client::send(std::string_view bytes) { boost::asio::write(socket_, boost::asio::buffer(bytes)); }

void Client::get(std::string_view path, std::string_view headers) {
  send("GET " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n" + std::string(headers) + "\r\n");
}

void Client::post(std::string_view path, std::string_view body, std::string_view headers) {
  send("POST " + std::string(path) + " HTTP/1.1\r\nHost: test\r\nContent-Length: " + std::to_string(body.size()) +
       "\r\n" + std::string(headers) + "\r\n" + std::string(body));
}

// Blocking reads of the native socket: Asio's would wait for ever in poll().
bool Client::fill() {
  char bytes[16384];
  const ssize_t count = ::recv(socket_.native_handle(), bytes, sizeof(bytes), 0);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) throw std::runtime_error("no answer in 30 s");
  if (count <= 0) return false;
  buffer_.append(bytes, static_cast<std::size_t>(count));
  return true;
}

void Client::read_until(std::string_view text) {
  while (buffer_.find(text) == std::string::npos) {
    if (!fill()) throw std::runtime_error("the connection ended before: " + std::string(text));
  }
}

std::string Client::read_all() {
  while (fill()) {
  }
  return std::exchange(buffer_, {});
}

ClientResponse Client::read(bool head) {
  ClientResponse response;
  std::size_t end;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!fill()) return response;
  }
  response.head = buffer_.substr(0, end + 2);
  response.status = static_cast<unsigned>(std::stoul(response.head.substr(9, 3)));
  buffer_.erase(0, end + 4);
  const std::string length = response.header("content-length");
  if (head || response.status == 204 || response.status == 100) {
    response.complete = true;
  } else if (!length.empty()) {
    const std::size_t bytes = std::stoul(length);
    while (buffer_.size() < bytes && fill()) {
    }
    response.body = buffer_.substr(0, bytes);
    response.complete = response.body.size() == bytes;
    buffer_.erase(0, bytes);
  } else if (response.header("transfer-encoding") == "chunked") {
    while (!response.complete) {
      std::size_t line;
      while ((line = buffer_.find("\r\n")) == std::string::npos) {
        if (!fill()) return response;
      }
      const std::size_t bytes = std::stoul(buffer_.substr(0, line), nullptr, 16);
      while (buffer_.size() < line + 2 + bytes + 2) {
        if (!fill()) return response;
      }
      response.body += buffer_.substr(line + 2, bytes);
      buffer_.erase(0, line + 2 + bytes + 2);
      response.complete = bytes == 0;
    }
  } else {
    while (fill()) {
    }
    response.body = std::exchange(buffer_, {});
  }
  return response;
}

void Client::close() { socket_.close(); }

}  // namespace troupe::testing
