#include "cluster/http/served_model.h"

#include <boost/json.hpp>
#include <limits>

#include "cluster/http/json_member.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxShown = 2000;  // bytes of a gateway's message

// 0 for what is no number of tokens.
std::uint32_t token_count(const json::value* value) {
  if (value == nullptr || !value->is_int64()) return 0;
  const std::int64_t number = value->get_int64();
  return number < 0 || number > std::numeric_limits<std::int32_t>::max() ? 0 : static_cast<std::uint32_t>(number);
}

ServedModelInfo info_of(const json::value& model) {
  ServedModelInfo info{.name = json_text(json_member(&model, "id")),
                       .max_model_len = token_count(json_member(&model, "max_model_len")),
                       .vocab_size = token_count(json_member(&model, "vocab_size"))};
  // As llama-server has them; its n_ctx_train is what the model could do, not what is served.
  if (info.vocab_size == 0) info.vocab_size = token_count(json_member(json_member(&model, "meta"), "n_vocab"));
  return info;
}

}  // namespace

Result<ServedModelInfo> ask_served_model(HttpClient& http, const std::string& root, const std::string& name) {
  TROUPE_ASSIGN_OR_RETURN(const HttpAnswer answer, http.get(root + "/v1/models"));
  json::error_code error;
  const json::value body = json::parse(answer.body, error);
  if (error || answer.status != 200) return gateway_error(answer.status, error ? nullptr : &body, answer.body);
  const json::value* data = json_member(&body, "data");
  const json::array* models = data == nullptr ? nullptr : data->if_array();
  if (models == nullptr) return corrupt_data("/v1/models is answered without a list of models");
  for (const json::value& model : *models) {
    ServedModelInfo info = info_of(model);
    if (!info.name.empty() && (name.empty() || info.name == name)) return info;
  }
  if (name.empty()) return unavailable("the gateway serves no model");
  return not_found("the gateway does not serve " + one_line(name) +
                   (models->empty() ? "" : "; it has " + one_line(info_of(models->front()).name)));
}

Error gateway_error(int status, const json::value* answer, std::string_view body) {
  const json::value* error = json_member(answer, "error");
  std::string message = error == nullptr ? std::string(body) : json_text(json_member(error, "message"));
  message =
      "the gateway answered" + (status == 0 ? "" : " " + std::to_string(status)) + ": " + one_line(message, kMaxShown);
  const std::string param = json_text(json_member(error, "param"));
  if (!param.empty()) message += " (param " + one_line(param) + ")";
  if (status == 401) message += "; give its key with --api-key-file";
  return status >= 400 && status < 500 ? invalid_argument(std::move(message)) : unavailable(std::move(message));
}

}  // namespace troupe::cluster
