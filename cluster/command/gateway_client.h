#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cluster/http/http_client.h"
#include "runtime/base/result.h"

namespace CLI {
class App;
}

namespace troupe::cluster {

// Options of the verbs that talk to a gateway. What is absent is left to the gateway.
struct GatewayOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  std::string model;  // empty = the first that it serves
  std::string api_key_file;
  std::uint32_t timeout_s = 120;

  std::optional<std::uint32_t> max_tokens;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> stop;
};

// Declares them on a verb. REQUIRES: `options` lives as long as the app.
void add_gateway_options(CLI::App& app, GatewayOptions& options);

// How a streamed answer ended.
struct StreamEnd {
  bool stopped = false;       // by Ctrl-C
  std::string finish_reason;  // "stop", "length"; empty if stopped
};

// Speaks the OpenAI API with a gateway. One thread.
class GatewayClient {
 public:
  // Reads the key file and asks for the model's name if none was given.
  // Errors: no such file, no gateway, no model, no right.
  static Result<GatewayClient> connect(const GatewayOptions& options);

  const std::string& model() const { return model_; }

  // Posts `request` with model, sampling options and stream = true added. Calls `on_text` with each piece of the first
  // choice's text, and `on_chunk`, if given, with each event's JSON as it came.
  Result<StreamEnd> stream(const std::string& target, boost::json::object request,
                           const std::function<void(std::string_view text)>& on_text,
                           const std::function<void(std::string_view json)>& on_chunk = {});

 private:
  GatewayClient(GatewayOptions options, HttpClient http) : options_(std::move(options)), http_(std::move(http)) {}

  GatewayOptions options_;
  HttpClient http_;
  std::string model_;
};

}  // namespace troupe::cluster
