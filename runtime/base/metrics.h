#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

using MetricLabels = std::map<std::string, std::string>;
using MetricFamilies = std::vector<prometheus::MetricFamily>;

// The metrics of one actor or process. Made by whoever wires the process and passed around; there is no global one.
// Thread-safe. References returned live as long as this object; counting through them takes no lock.
// Names are troupe_<what>_<unit>[_total] in base units (seconds, bytes).
class Metrics {
 public:
  // The metric of this name and these labels, made at the first call.
  // REQUIRES: `name` and label names valid for Prometheus, one kind a name.
  prometheus::Counter& counter(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  prometheus::Gauge& gauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  // `bounds` are the upper bounds of the buckets, ascending, without +Inf.
  prometheus::Histogram& histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                                   const MetricLabels& labels = {});

  // Families that somebody else counts (such as the fabric), asked for at every collect().
  void add_source(std::function<MetricFamilies()> source);

  // Everything at this moment, families of one name merged.
  MetricFamilies collect() const;

 private:
  prometheus::Registry registry_{prometheus::Registry::InsertBehavior::Merge};
  mutable std::mutex mutex_;
  std::vector<std::function<MetricFamilies()>> sources_;
};

// Adds `more` to `into`. Families of one name become one; a metric whose labels are already there is left out, and so
// are families with names that Prometheus would refuse: the text must parse whatever a peer reported.
void merge_metric_families(MetricFamilies& into, MetricFamilies more);

// Prometheus text format, version 0.0.4.
std::string render_metrics(const MetricFamilies& families);

// Bucket bounds for latencies of 100 us to 2 min, in seconds.
const std::vector<double>& latency_bounds_seconds();

}  // namespace troupe
