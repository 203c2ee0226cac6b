#include "actors/gateway/openai_api.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <random>
#include <utility>

#include "actors/gateway/metered_responder.h"
#include "runtime/base/log.h"

namespace troupe {
namespace {

namespace json = boost::json;

constexpr std::size_t kLongestRequestId = 128;
constexpr std::size_t kNamedUnknownFields = 8;  // in a response header
constexpr std::size_t kLongestFieldName = 64;   // there
constexpr std::size_t kLoggedFieldNames = 256;  // of this process: names come from outside
constexpr std::string_view kModelPrefix = "/v1/models/";

bool plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

std::string random_id() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return fmt::format("req-{:016x}", generator());
}

// The client's id if it can stand in a header and a log line, else one of ours.
std::string request_id(const HttpRequest& request) {
  const std::string_view given = request.header("x-request-id");
  const bool usable =
      !given.empty() && given.size() <= kLongestRequestId && std::all_of(given.begin(), given.end(), plain);
  return usable ? std::string(given) : random_id();
}

// "a, b, messages[0].name": letters that have no place in a header become '?'.
std::string field_list(const std::vector<std::string>& names) {
  std::string list;
  for (std::size_t i = 0; i < std::min(names.size(), kNamedUnknownFields); ++i) {
    if (i > 0) list += ", ";
    for (const char c : names[i].substr(0, kLongestFieldName)) {
      list += plain(c) || c == '[' || c == ']' ? c : '?';
    }
  }
  if (names.size() > kNamedUnknownFields) list += ", ...";
  return list;
}

HttpResponse json_response(unsigned status, const json::value& value) {
  HttpResponse response;
  response.status = status;
  response.body = json::serialize(value);
  return response;
}

json::object model_object(const ServedModel& model) {
  return {{"id", model.name},
          {"object", "model"},
          {"created", model.created},
          {"owned_by", "troupe"},
          {"max_model_len", model.max_model_len},
          {"vocab_size", model.vocab_size}};
}

// What is left of a request's time; 0 when it has no end.
Result<std::uint32_t> time_left_ms(std::optional<std::uint32_t> timeout_ms,
                                   std::chrono::steady_clock::time_point arrival) {
  if (!timeout_ms) return 0;
  const auto spent = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - arrival);
  if (spent.count() < std::int64_t{*timeout_ms}) return static_cast<std::uint32_t>(*timeout_ms - spent.count());
  return deadline_exceeded(fmt::format("the timeout of {} ms was over before the prompt was read; allow more time or "
                                       "ask again later",
                                       *timeout_ms),
                           "timeout");
}

ApiError unknown_model(const std::string& name, const ServedModel& model) {
  return {404, "invalid_request_error", "model_not_found", "model",
          "the model \"" + printable(name) + "\" does not exist here; this server has \"" + model.name + "\""};
}

}  // namespace

InFlight::Ticket InFlight::admit(std::uint64_t prompts) {
  std::uint64_t now = *count_;
  do {
    if (now + prompts > most_) return nullptr;
  } while (!count_->compare_exchange_weak(now, now + prompts));
  return Ticket(count_.get(), [count = count_, prompts](void*) { *count -= prompts; });
}

// One path. `endpoint` is its name in metrics.
struct OpenAiApi::Route {
  const char* path;
  bool is_prefix;
  const char* method;  // "GET" allows HEAD as well
  const char* endpoint;
  bool needs_key;
  void (*run)(OpenAiApi& api, HttpRequest request, std::shared_ptr<MeteredResponder> responder);
};

const std::vector<OpenAiApi::Route>& OpenAiApi::routes() {
  using Responder = std::shared_ptr<MeteredResponder>;
  static const std::vector<Route> routes = {
      {"/v1/chat/completions", false, "POST", "chat", true,
       [](OpenAiApi& api, HttpRequest request, Responder responder) {
         api.completion(Endpoint::kChat, std::move(request), std::move(responder));
       }},
      {"/v1/completions", false, "POST", "completions", true,
       [](OpenAiApi& api, HttpRequest request, Responder responder) {
         api.completion(Endpoint::kCompletions, std::move(request), std::move(responder));
       }},
      {"/v1/models", false, "GET", "models", true,
       [](OpenAiApi& api, HttpRequest, Responder responder) {
         responder->send(json_response(200, {{"object", "list"}, {"data", json::array{model_object(*api.model_)}}}));
       }},
      {kModelPrefix.data(), true, "GET", "models", true,
       [](OpenAiApi& api, HttpRequest request, Responder responder) {
         const std::string name = request.path.substr(kModelPrefix.size());
         if (name != api.model_->name) return responder->send(error_response(unknown_model(name, *api.model_)));
         responder->send(json_response(200, model_object(*api.model_)));
       }},
      {"/health", false, "GET", "health", false,
       [](OpenAiApi&, HttpRequest, Responder responder) {
         responder->send(json_response(200, {{"status", "ok"}}));
       }},
      {"/ready", false, "GET", "ready", false,
       [](OpenAiApi& api, HttpRequest, Responder responder) {
         if (api.backend_->ready()) return responder->send(json_response(200, {{"status", "ready"}}));
         responder->send(error_response(http_error(503, "the cluster is not assembled yet")));
       }},
      {"/version", false, "GET", "version", false,
       [](OpenAiApi& api, HttpRequest, Responder responder) {
         responder->send(json_response(200, {{"version", api.options_.version}}));
       }},
      {"/metrics", false, "GET", "metrics", false,
       [](OpenAiApi& api, HttpRequest, Responder responder) { api.backend_->scrape(std::move(responder)); }},
  };
  return routes;
}

OpenAiApi::OpenAiApi(std::shared_ptr<const ServedModel> model, OpenAiApiOptions options,
                     std::shared_ptr<GatewayMetrics> metrics, std::shared_ptr<GatewayBackend> backend,
                     std::shared_ptr<SchedulerRoom> room)
    : model_(std::move(model)),
      options_(std::move(options)),
      metrics_(std::move(metrics)),
      backend_(std::move(backend)),
      room_(std::move(room)),
      keys_(options_.api_keys),
      in_flight_(options_.limits.requests_in_flight),
      pool_(options_.prepare_threads) {}

OpenAiApi::~OpenAiApi() { pool_.join(); }

void OpenAiApi::handle(HttpRequest request, std::shared_ptr<HttpResponder> inner) {
  const Route* route = nullptr;
  for (const Route& candidate : routes()) {
    const bool matches =
        candidate.is_prefix ? request.path.starts_with(candidate.path) : request.path == candidate.path;
    if (matches) route = &candidate;
  }
  auto responder = std::make_shared<MeteredResponder>(std::move(inner), metrics_, route ? route->endpoint : "other",
                                                      request_id(request));
  if (!route) {
    return responder->send(
        error_response(http_error(404, "there is no " + request.method + " " + printable(request.path) + " here")));
  }
  const bool get = std::string_view(route->method) == "GET";
  const std::string allowed = get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  if (request.method == "OPTIONS") {
    responder->add_header("Allow", allowed);
    return responder->send({.status = 204, .content_type = ""});
  }
  if (request.method != route->method && !(get && request.method == "HEAD")) {
    responder->add_header("Allow", allowed);
    return responder->send(error_response(
        http_error(405, printable(request.method, 20) + " is not allowed on " + route->path + ", only " + allowed)));
  }
  if (route->needs_key && !keys_.tenant_of(request.header("authorization"))) {
    return responder->send(
        error_response(http_error(401, "missing or wrong API key; send it as Authorization: Bearer KEY")));
  }
  route->run(*this, std::move(request), std::move(responder));
}

HttpResponse OpenAiApi::refusal(unsigned status, std::string_view message) {
  metrics_->count_response("other", status);
  return error_response(http_error(status, std::string(message)));
}

void OpenAiApi::completion(Endpoint endpoint, HttpRequest request, std::shared_ptr<MeteredResponder> responder) {
  const std::string_view encoding = request.header("content-encoding");
  if (!encoding.empty() && encoding != "identity") {
    return responder->send(error_response(http_error(415, "the body has a content-encoding; send it plain")));
  }
  std::vector<InFlight::Ticket> tickets{in_flight_.admit(1)};
  if (!tickets.front()) {
    return responder->send(error_response(http_error(
        429, fmt::format("{} requests are in flight (limit requests_in_flight)", options_.limits.requests_in_flight))));
  }
  if (!backend_->ready()) {
    return responder->send(error_response(http_error(503, "the scheduler is away; try again later")));
  }
  SchedulerRoom::Ticket place = room_->enter();
  if (!place) {
    ApiError full = http_error(429, "the scheduler's queue is full (limits queue, target_ttft_ms); ask again later");
    full.param = "queue";
    full.retry_after_ms = room_->retry_after_ms();
    return responder->send(error_response(full));
  }
  boost::asio::post(pool_, [this, endpoint, request = std::move(request), responder = std::move(responder),
                            tickets = std::move(tickets), place = std::move(place)]() mutable {
    prepare(endpoint, request, std::move(responder), std::move(tickets), std::move(place));
  });
}

void OpenAiApi::prepare(Endpoint endpoint, const HttpRequest& request, std::shared_ptr<MeteredResponder> responder,
                        std::vector<InFlight::Ticket> tickets, SchedulerRoom::Ticket place) {
  auto plan = endpoint == Endpoint::kChat ? plan_chat(request.body, *model_, options_.limits)
                                          : plan_completion(request.body, *model_, options_.limits);
  if (!plan.ok()) return responder->send(error_response(api_error(plan.error())));
  if (plan->options.model != model_->name) {
    return responder->send(error_response(unknown_model(plan->options.model, *model_)));
  }
  if (const auto error = fit_lengths(*plan, *model_)) return responder->send(error_response(*error));
  plan->tenant = keys_.tenant_of(request.header("authorization")).value_or(0);
  const Result<std::uint32_t> deadline_ms = time_left_ms(plan->options.timeout_ms, request.arrival);
  if (!deadline_ms.ok()) return responder->send(error_response(api_error(deadline_ms.error())));
  const std::size_t choices = plan->choices();
  tickets.push_back(in_flight_.admit(choices - 1));
  if (!tickets.back()) {
    return responder->send(
        error_response(http_error(429, fmt::format("{} choices are more than requests_in_flight of {} leaves room for",
                                                   choices, options_.limits.requests_in_flight))));
  }
  const auto& unknown = plan->options.unknown_fields;
  if (!unknown.empty()) {
    log_unknown_fields(unknown);
    responder->add_header("x-troupe-warning", "unknown fields ignored: " + field_list(unknown));
  }
  auto submission = std::make_shared<Submission>();
  submission->arrival = request.arrival;
  submission->first_request = next_request_.fetch_add(choices);
  submission->tickets = std::move(tickets);
  submission->place = std::move(place);
  for (std::size_t i = 0; i < choices; ++i) {
    submission->generates.push_back(generate_message(*plan, i, submission->first_request + i, *deadline_ms));
  }
  const std::string id = fmt::format("{}-{:x}{:08x}", endpoint == Endpoint::kChat ? "chatcmpl" : "cmpl",
                                     options_.incarnation, next_response_.fetch_add(1));
  submission->writer = std::make_unique<ResponseWriter>(model_, *std::move(plan), id, responder);
  const std::uint64_t first_request = submission->first_request;
  backend_->submit(std::move(submission));
  // After submit(): the backend hears of the request before it can hear that its client has gone.
  responder->on_gone([backend = backend_, first_request, choices] { backend->gone(first_request, choices); });
}

void OpenAiApi::log_unknown_fields(const std::vector<std::string>& names) {
  const std::lock_guard lock(mutex_);
  for (const std::string& name : names) {
    if (logged_fields_.size() >= kLoggedFieldNames) return;
    const std::string shown = printable(name, kLongestFieldName);
    if (logged_fields_.insert(shown).second) spdlog::warn("ignoring the unknown request field {}", shown);
  }
}

}  // namespace troupe
