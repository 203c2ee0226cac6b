#include "actors/stats.h"

#include <cmath>
#include <limits>

namespace troupe {
namespace {

using Kind = schema::Stats::MetricFamily::Kind;

bool kind_of(prometheus::MetricType type, Kind& kind) {
  switch (type) {
    case prometheus::MetricType::Counter: kind = Kind::COUNTER; return true;
    case prometheus::MetricType::Gauge: kind = Kind::GAUGE; return true;
    case prometheus::MetricType::Histogram: kind = Kind::HISTOGRAM; return true;
    default: return false;
  }
}

void write_metric(Kind kind, const prometheus::ClientMetric& metric, schema::Stats::Metric::Builder out) {
  auto labels = out.initLabels(metric.label.size());
  for (std::size_t i = 0; i < metric.label.size(); ++i) {
    labels[i].setName(metric.label[i].name);
    labels[i].setValue(metric.label[i].value);
  }
  if (kind == Kind::COUNTER) return out.setValue(metric.counter.value);
  if (kind == Kind::GAUGE) return out.setValue(metric.gauge.value);
  out.setValue(metric.histogram.sample_sum);
  out.setCount(metric.histogram.sample_count);
  const auto& buckets = metric.histogram.bucket;
  auto bounds = out.initBucketBounds(buckets.size());
  auto counts = out.initBucketCounts(buckets.size());
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    bounds.set(i, buckets[i].upper_bound);
    counts.set(i, buckets[i].cumulative_count);
  }
}

bool read_histogram(schema::Stats::Metric::Reader in, prometheus::ClientMetric::Histogram& histogram) {
  const auto bounds = in.getBucketBounds();
  const auto counts = in.getBucketCounts();
  if (bounds.size() != counts.size()) return false;
  histogram.sample_sum = in.getValue();
  histogram.sample_count = in.getCount();
  double last = -std::numeric_limits<double>::infinity();
  for (unsigned i = 0; i < bounds.size(); ++i) {
    if (!(bounds[i] > last)) return false;
    last = bounds[i];
    histogram.bucket.push_back({counts[i], bounds[i]});
  }
  return true;
}

}  // namespace

void write_families(const MetricFamilies& families, schema::Stats::Builder stats) {
  std::vector<const prometheus::MetricFamily*> known;
  Kind kind{};
  for (const auto& family : families) {
    if (kind_of(family.type, kind)) known.push_back(&family);
  }
  auto out = stats.initFamilies(known.size());
  for (std::size_t i = 0; i < known.size(); ++i) {
    kind_of(known[i]->type, kind);
    out[i].setName(known[i]->name);
    out[i].setHelp(known[i]->help);
    out[i].setKind(kind);
    auto metrics = out[i].initMetrics(known[i]->metric.size());
    for (std::size_t m = 0; m < known[i]->metric.size(); ++m) write_metric(kind, known[i]->metric[m], metrics[m]);
  }
}

fabric::Message<schema::Stats> stats_of(const std::string& actor, const std::string& node, std::uint64_t incarnation,
                                        const Metrics& metrics) {
  return fabric::make_message<schema::Stats>([&](schema::Stats::Builder out) {
    out.setActor(actor);
    out.initNode().setName(node);
    out.getNode().setIncarnation(incarnation);
    write_families(metrics.collect(), out);
  });
}

MetricFamilies read_families(schema::Stats::Reader stats) {
  MetricFamilies families;
  for (const auto in : stats.getFamilies()) {
    prometheus::MetricFamily family;
    family.name = in.getName().cStr();
    family.help = in.getHelp().cStr();
    switch (in.getKind()) {
      case Kind::COUNTER: family.type = prometheus::MetricType::Counter; break;
      case Kind::GAUGE: family.type = prometheus::MetricType::Gauge; break;
      case Kind::HISTOGRAM: family.type = prometheus::MetricType::Histogram; break;
      default: continue;  // a kind of a newer peer
    }
    for (const auto from : in.getMetrics()) {
      prometheus::ClientMetric metric;
      for (const auto label : from.getLabels())
        metric.label.push_back({label.getName().cStr(), label.getValue().cStr()});
      metric.counter.value = metric.gauge.value = from.getValue();
      const bool whole = family.type != prometheus::MetricType::Histogram || read_histogram(from, metric.histogram);
      if (whole) family.metric.push_back(std::move(metric));
    }
    families.push_back(std::move(family));
  }
  return families;
}

}  // namespace troupe
