#include "cluster/command/gateway_client.h"

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <chrono>

#include "cluster/http/api_key.h"
#include "cluster/http/json_member.h"
#include "cluster/http/served_model.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

}  // namespace

void add_gateway_options(CLI::App& app, GatewayOptions& options) {
  const std::string where = "Where", how = "Sampling (what is left out, the gateway decides)";
  app.add_option("--host", options.host, "Host of the gateway")->capture_default_str()->group(where);
  app.add_option("--port", options.port, "Its port")->capture_default_str()->group(where);
  app.add_option("--model", options.model, "Served model name; default: the first one served")->group(where);
  app.add_option("--api-key-file", options.api_key_file, "File whose first line is the API key")->group(where);
  app.add_option("--timeout", options.timeout_s, "Seconds without a byte after which to give up")
      ->capture_default_str()
      ->check(CLI::Range(1, 86400))
      ->group(where);
  app.add_option("--max-tokens", options.max_tokens, "Length of the answer at most")->group(how);
  app.add_option("--temperature", options.temperature, "0 = always the likeliest token")->group(how);
  app.add_option("--top-p", options.top_p, "Only the likeliest tokens of this probability in all")->group(how);
  app.add_option("--seed", options.seed, "The same seed gives the same answer")->group(how);
  app.add_option("--stop", options.stop, "End before this text; may be given several times")->group(how);
}

Result<GatewayClient> GatewayClient::connect(const GatewayOptions& options) {
  TROUPE_ASSIGN_OR_RETURN(std::string key, read_api_key(options.api_key_file));
  GatewayClient client(options, HttpClient({options.host, options.port, key}, std::chrono::seconds(options.timeout_s)));
  client.model_ = options.model;
  if (!client.model_.empty()) return client;

  TROUPE_ASSIGN_OR_RETURN(ServedModelInfo served, ask_served_model(client.http_, "", ""));
  client.model_ = std::move(served.name);
  return client;
}

Result<StreamEnd> GatewayClient::stream(const std::string& target, json::object request,
                                        const std::function<void(std::string_view text)>& on_text,
                                        const std::function<void(std::string_view json)>& on_chunk) {
  request["model"] = model_;
  request["stream"] = true;
  if (options_.max_tokens) request["max_tokens"] = *options_.max_tokens;
  if (options_.temperature) request["temperature"] = *options_.temperature;
  if (options_.top_p) request["top_p"] = *options_.top_p;
  if (options_.seed) request["seed"] = *options_.seed;
  if (!options_.stop.empty()) request["stop"] = json::value_from(options_.stop);

  StreamEnd end;
  std::optional<Error> failed;
  bool done = false;
  const auto on_event = [&](std::string_view data) {
    if (data == "[DONE]") {
      done = true;
      return false;
    }
    json::error_code parse_error;
    const json::value chunk = json::parse(data, parse_error);
    if (parse_error) {
      failed = corrupt_data("the gateway sent an event that is not JSON: " + one_line(data));
      return false;
    }
    if (json_member(&chunk, "error") != nullptr) {
      failed = gateway_error(0, &chunk, data);
      return false;
    }
    if (on_chunk) on_chunk(data);
    const json::value* choices = json_member(&chunk, "choices");
    const json::array* list = choices == nullptr ? nullptr : choices->if_array();
    if (list == nullptr || list->empty()) return true;  // the usage chunk
    const json::value* choice = &list->front();
    // Completions carry `text`, chat completions `delta.content`.
    const json::value* text = json_member(choice, "text");
    if (text == nullptr) text = json_member(json_member(choice, "delta"), "content");
    if (const std::string piece = json_text(text); !piece.empty()) on_text(piece);
    if (const std::string reason = json_text(json_member(choice, "finish_reason")); !reason.empty())
      end.finish_reason = reason;
    return true;
  };

  TROUPE_ASSIGN_OR_RETURN(const HttpAnswer answer, http_.post(target, json::serialize(request), on_event));
  if (failed) return *std::move(failed);
  if (done) return end;
  if (answer.stopped) {
    end.stopped = true;
    return end;
  }
  if (answer.status != 200) {
    json::error_code error;
    const json::value body = json::parse(answer.body, error);
    return gateway_error(answer.status, error ? nullptr : &body, answer.body);
  }
  return unavailable("the gateway ended the stream early; troupe status shows what happened");
}

}  // namespace troupe::cluster
