#include "runtime/base/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>

namespace troupe {
namespace {

// [a-zA-Z_:][a-zA-Z0-9_:]*, without the colon for labels.
bool valid_name(std::string_view name, bool is_label) {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::all_of(name.begin(), name.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (c == ':' && !is_label);
  });
}

bool valid_labels(const prometheus::ClientMetric& metric) {
  return std::all_of(metric.label.begin(), metric.label.end(),
                     [](const auto& label) { return valid_name(label.name, true); });
}

}  // namespace

prometheus::Counter& Metrics::counter(const std::string& name, const std::string& help, const MetricLabels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels);
}

prometheus::Gauge& Metrics::gauge(const std::string& name, const std::string& help, const MetricLabels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels);
}

prometheus::Histogram& Metrics::histogram(const std::string& name, const std::string& help,
                                          const std::vector<double>& bounds, const MetricLabels& labels) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add(labels, bounds);
}

void Metrics::add_source(std::function<MetricFamilies()> source) {
  const std::lock_guard lock(mutex_);
  sources_.push_back(std::move(source));
}

MetricFamilies Metrics::collect() const {
  MetricFamilies families = registry_.Collect();
  std::vector<std::function<MetricFamilies()>> sources;
  {
    const std::lock_guard lock(mutex_);
    sources = sources_;
  }
  for (const auto& source : sources) merge_metric_families(families, source());
  return families;
}

void merge_metric_families(MetricFamilies& into, MetricFamilies more) {
  for (prometheus::MetricFamily& family : more) {
    if (!valid_name(family.name, false)) continue;
    // The serializer escapes label values, but not this.
    std::replace(family.help.begin(), family.help.end(), '\n', ' ');
    const auto same_name = std::find_if(into.begin(), into.end(), [&](const auto& f) { return f.name == family.name; });
    prometheus::MetricFamily& target =
        same_name != into.end()
            ? *same_name
            : into.emplace_back(prometheus::MetricFamily{family.name, family.help, family.type, {}});
    if (target.type != family.type) continue;
    for (prometheus::ClientMetric& metric : family.metric) {
      std::sort(metric.label.begin(), metric.label.end());
      const bool known = std::any_of(target.metric.begin(), target.metric.end(),
                                     [&](const auto& other) { return other.label == metric.label; });
      if (!known && valid_labels(metric)) target.metric.push_back(std::move(metric));
    }
  }
}

std::string render_metrics(const MetricFamilies& families) { return prometheus::TextSerializer().Serialize(families); }

const std::vector<double>& latency_bounds_seconds() {
  static const std::vector<double> bounds = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                             0.25,   0.5,     1,      2.5,   5,      10,    20,   30,    60,   120};
  return bounds;
}

}  // namespace troupe
