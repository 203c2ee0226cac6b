#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/http/http_client.h"

namespace troupe::cluster {

// What a gateway's /metrics says of the time that requests waited in its scheduler's queue, since its start.
struct QueueWait {
  double sum_s = 0;
  double count = 0;
};

// From Prometheus text; nothing if it does not speak of it.
std::optional<QueueWait> parse_queue_wait(std::string_view metrics);

// Asks `root`/metrics. Nothing of a server that has none, or other ones.
std::optional<QueueWait> ask_queue_wait(HttpClient& http, const std::string& root);

// Milliseconds on average of the requests between both; nothing if there were none, or the server was started anew.
std::optional<double> mean_queue_wait_ms(const std::optional<QueueWait>& before, const std::optional<QueueWait>& after);

}  // namespace troupe::cluster
