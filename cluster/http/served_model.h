#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "cluster/http/http_client.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// What /v1/models says of a model; numbers are 0 where it does not say them.
struct ServedModelInfo {
  std::string name;
  std::uint32_t max_model_len = 0;  // prompt and answer together
  std::uint32_t vocab_size = 0;
};

// Asks `root`/v1/models for the model of that name, or for the first one if it is empty.
// Errors: no gateway, no right, no (such) model.
Result<ServedModelInfo> ask_served_model(HttpClient& http, const std::string& root, const std::string& name);

// An OpenAI error answer as an Error. `answer` is its JSON, or null if it is none; status 0: it came within a stream.
Error gateway_error(int status, const boost::json::value* answer, std::string_view body);

}  // namespace troupe::cluster
