#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe::cluster {

// Where an OpenAI-compatible server is.
struct HttpUrl {
  std::string host;  // an IPv6 address without its brackets
  std::uint16_t port = 80;
  std::string root;  // path without a last slash and without "/v1": what stands before /v1/models and /metrics
};

// "http://HOST[:PORT][/PATH]". Errors: not a URL, https, a user, a query or a fragment.
Result<HttpUrl> parse_http_url(std::string_view text);

}  // namespace troupe::cluster
