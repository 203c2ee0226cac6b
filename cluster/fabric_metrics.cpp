#include "cluster/fabric_metrics.h"

namespace troupe::cluster {
namespace {

prometheus::MetricFamily family(const std::string& name, const std::string& help, prometheus::MetricType type) {
  prometheus::MetricFamily made;
  made.name = name;
  made.help = help;
  made.type = type;
  return made;
}

void add(prometheus::MetricFamily& to, std::vector<prometheus::ClientMetric::Label> labels, std::uint64_t value) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = metric.counter.value = static_cast<double>(value);
  to.metric.push_back(std::move(metric));
}

}  // namespace

MetricFamilies fabric_families(const fabric::FabricStats& stats, const std::string& node) {
  using prometheus::MetricType;
  const prometheus::ClientMetric::Label of_node = {"node", node};
  MetricFamilies families;
  const auto counter = [&](const std::string& name, const std::string& help, std::uint64_t value) {
    add(families.emplace_back(family(name, help, MetricType::Counter)), {of_node}, value);
  };
  const auto gauge = [&](const std::string& name, const std::string& help, std::uint64_t value) {
    add(families.emplace_back(family(name, help, MetricType::Gauge)), {of_node}, value);
  };
  counter("troupe_fabric_sent_messages_total", "Messages sent to other nodes", stats.messages_sent);
  counter("troupe_fabric_received_messages_total", "Messages received from other nodes", stats.messages_received);
  counter("troupe_fabric_sent_bytes_total", "Bytes sent to other nodes", stats.bytes_sent);
  counter("troupe_fabric_received_bytes_total", "Bytes received from other nodes", stats.bytes_received);
  counter("troupe_fabric_rejected_frames_total", "Broken frames; their connections were closed", stats.rejected_frames);
  gauge("troupe_fabric_peers", "Connected nodes", stats.peers);
  gauge("troupe_fabric_queue_bytes", "Bytes waiting for a peer's credit", stats.queue_bytes);
  gauge("troupe_fabric_unreleased_bytes", "Received bytes still held by actors", stats.unreleased_bytes);
  auto& dropped =
      families.emplace_back(family("troupe_fabric_dropped_messages_total", "Messages dropped", MetricType::Counter));
  add(dropped, {of_node, {"reason", "stale_incarnation"}}, stats.dropped_stale);
  add(dropped, {of_node, {"reason", "unknown_actor"}}, stats.dropped_unknown_actor);
  add(dropped, {of_node, {"reason", "overload"}}, stats.dropped_overload);
  add(dropped, {of_node, {"reason", "unencodable"}}, stats.dropped_unencodable);
  return families;
}

}  // namespace troupe::cluster
