#pragma once

#include <string>

#include "cluster/http/http_connections.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// Which server a load is for.
struct BenchTarget {
  HttpServer server;
  std::string root;  // what stands before /v1
  std::string url;   // for people
};

// What the user named: a URL, or a topology file, whose gateway and API key count. `api_key` and `api_key_file` may be
// empty; one of them at most is given. Errors: neither of the two, both keys, a file or a key that is wrong.
Result<BenchTarget> bench_target(const std::string& url_or_file, const std::string& api_key,
                                 const std::string& api_key_file);

}  // namespace troupe::cluster
