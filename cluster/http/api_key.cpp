#include "cluster/http/api_key.h"

#include <algorithm>
#include <fstream>

#include "runtime/base/log.h"

namespace troupe::cluster {

bool is_api_key(const std::string& key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; });
}

Result<std::string> read_api_key(const std::string& file) {
  if (file.empty()) return std::string();
  std::ifstream in(file);
  std::string key;
  if (!in || !std::getline(in, key)) return not_found("--api-key-file " + one_line(file) + " cannot be read");
  while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) key.pop_back();
  if (!is_api_key(key)) {
    return invalid_argument("--api-key-file " + one_line(file) + " does not begin with a line of printable ASCII");
  }
  return key;
}

}  // namespace troupe::cluster
