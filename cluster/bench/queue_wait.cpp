#include "cluster/bench/queue_wait.h"

#include <charconv>
#include <cmath>

namespace troupe::cluster {
namespace {

constexpr std::string_view kName = "troupe_request_queue_seconds";

// The sum of the samples of that name, whatever their labels: "NAME{labels} VALUE".
std::optional<double> sample(std::string_view metrics, std::string_view name) {
  std::optional<double> sum;
  while (!metrics.empty()) {
    const std::size_t newline = metrics.find('\n');
    const std::string_view line = metrics.substr(0, newline);
    metrics.remove_prefix(newline == std::string_view::npos ? metrics.size() : newline + 1);
    if (!line.starts_with(name)) continue;
    std::string_view rest = line.substr(name.size());
    if (rest.starts_with('{')) {
      const std::size_t end = rest.rfind('}');
      if (end == std::string_view::npos) continue;
      rest.remove_prefix(end + 1);
    }
    if (!rest.starts_with(' ')) continue;
    rest.remove_prefix(1);
    double value = 0;
    const auto parsed = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (parsed.ec == std::errc() && std::isfinite(value)) sum = sum.value_or(0) + value;
  }
  return sum;
}

}  // namespace

std::optional<QueueWait> parse_queue_wait(std::string_view metrics) {
  const auto sum = sample(metrics, std::string(kName) + "_sum");
  const auto count = sample(metrics, std::string(kName) + "_count");
  if (!sum || !count) return std::nullopt;
  return QueueWait{*sum, *count};
}

std::optional<QueueWait> ask_queue_wait(HttpClient& http, const std::string& root) {
  const auto answer = http.get(root + "/metrics");
  if (!answer.ok() || answer->status != 200) return std::nullopt;
  return parse_queue_wait(answer->body);
}

std::optional<double> mean_queue_wait_ms(const std::optional<QueueWait>& before,
                                         const std::optional<QueueWait>& after) {
  if (!before || !after || !(after->count > before->count) || after->sum_s < before->sum_s) return std::nullopt;
  return 1e3 * (after->sum_s - before->sum_s) / (after->count - before->count);
}

}  // namespace troupe::cluster
