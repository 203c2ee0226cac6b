#include "cluster/command/gateway_client.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <fstream>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxShown = 2000;  // bytes of a gateway's message

// The member of that name, or null if `value` is no object or has none.
const json::value* member(const json::value* value, std::string_view name) {
  const json::object* object = value == nullptr ? nullptr : value->if_object();
  return object == nullptr ? nullptr : object->if_contains(name);
}

std::string text_of(const json::value* value) {
  const json::string* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? std::string() : std::string(text->data(), text->size());
}

// An OpenAI error object as an Error.
Error gateway_error(int status, const json::value* answer, std::string_view body) {
  const json::value* error = member(answer, "error");
  std::string message = error == nullptr ? std::string(body) : text_of(member(error, "message"));
  message =
      "the gateway answered" + (status == 0 ? "" : " " + std::to_string(status)) + ": " + one_line(message, kMaxShown);
  const std::string param = text_of(member(error, "param"));
  if (!param.empty()) message += " (param " + one_line(param) + ")";
  if (status == 401) message += "; give its key with --api-key-file";
  return status >= 400 && status < 500 ? invalid_argument(std::move(message)) : unavailable(std::move(message));
}

Result<std::string> read_api_key(const std::string& file) {
  if (file.empty()) return std::string();
  std::ifstream in(file);
  std::string key;
  if (!in || !std::getline(in, key)) return not_found("--api-key-file " + one_line(file) + " cannot be read");
  while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) key.pop_back();
  const bool clean = !key.empty() && std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (!clean) {
    return invalid_argument("--api-key-file " + one_line(file) + " does not begin with a line of printable ASCII");
  }
  return key;
}

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
  GatewayClient client(options, HttpClient(options.host, options.port, key, std::chrono::seconds(options.timeout_s)));
  client.model_ = options.model;
  if (!client.model_.empty()) return client;

  TROUPE_ASSIGN_OR_RETURN(const HttpAnswer answer, client.http_.get("/v1/models"));
  json::error_code error;
  const json::value body = json::parse(answer.body, error);
  if (error || answer.status != 200) return gateway_error(answer.status, error ? nullptr : &body, answer.body);
  const json::value* data = member(&body, "data");
  const json::array* models = data == nullptr ? nullptr : data->if_array();
  if (models != nullptr && !models->empty()) client.model_ = text_of(member(&models->front(), "id"));
  if (client.model_.empty()) return unavailable("the gateway serves no model");
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
    if (member(&chunk, "error") != nullptr) {
      failed = gateway_error(0, &chunk, data);
      return false;
    }
    if (on_chunk) on_chunk(data);
    const json::value* choices = member(&chunk, "choices");
    const json::array* list = choices == nullptr ? nullptr : choices->if_array();
    if (list == nullptr || list->empty()) return true;  // the usage chunk
    const json::value* choice = &list->front();
    // Completions carry `text`, chat completions `delta.content`.
    const json::value* text = member(choice, "text");
    if (text == nullptr) text = member(member(choice, "delta"), "content");
    if (const std::string piece = text_of(text); !piece.empty()) on_text(piece);
    if (const std::string reason = text_of(member(choice, "finish_reason")); !reason.empty())
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
