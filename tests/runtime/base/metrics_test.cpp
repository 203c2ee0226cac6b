#include "runtime/base/metrics.h"

#include <boost/test/unit_test.hpp>

using namespace troupe;

BOOST_AUTO_TEST_SUITE(metrics)

static prometheus::MetricFamily gauge(const std::string& name, double value, const std::string& label = {}) {
  prometheus::ClientMetric metric;
  metric.gauge.value = value;
  if (!label.empty()) metric.label.push_back({label, "x"});
  return {name, "", prometheus::MetricType::Gauge, {metric}};
}

BOOST_AUTO_TEST_CASE(a_metric_asked_for_twice_is_the_same_one) {
  Metrics metrics;
  metrics.counter("troupe_things_total", "Things.", {{"kind", "a"}}).Increment();
  metrics.counter("troupe_things_total", "Things.", {{"kind", "a"}}).Increment();
  BOOST_TEST(render_metrics(metrics.collect()).find("troupe_things_total{kind=\"a\"} 2\n") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_histogram_is_written_with_its_buckets) {
  Metrics metrics;
  metrics.histogram("troupe_wait_seconds", "Waiting.", {0.5, 1}).Observe(0.75);
  const std::string text = render_metrics(metrics.collect());
  BOOST_TEST(text.find("troupe_wait_seconds_bucket{le=\"0.5\"} 0\n") != std::string::npos);
  BOOST_TEST(text.find("troupe_wait_seconds_bucket{le=\"1\"} 1\n") != std::string::npos);
  BOOST_TEST(text.find("troupe_wait_seconds_bucket{le=\"+Inf\"} 1\n") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(families_of_one_name_are_merged_and_the_first_of_two_equal_metrics_stays) {
  MetricFamilies families = {gauge("troupe_queue", 1)};
  merge_metric_families(families, {gauge("troupe_queue", 2), gauge("troupe_queue", 3, "node")});
  BOOST_REQUIRE(families.size() == 1u);
  BOOST_REQUIRE(families[0].metric.size() == 2u);
  BOOST_TEST(families[0].metric[0].gauge.value == 1);
  BOOST_TEST(families[0].metric[1].gauge.value == 3);
}

BOOST_AUTO_TEST_CASE(names_that_would_break_the_page_are_left_out) {
  MetricFamilies families;
  merge_metric_families(families,
                        {gauge("bad name", 1), gauge("1bad", 1), gauge("", 1), gauge("good", 1, "bad-label")});
  BOOST_REQUIRE(families.size() == 1u);
  BOOST_TEST(families[0].metric.empty());
}

BOOST_AUTO_TEST_CASE(sources_are_asked_at_every_collect) {
  Metrics metrics;
  double value = 0;
  metrics.add_source([&] { return MetricFamilies{gauge("troupe_now", ++value)}; });
  metrics.collect();
  BOOST_TEST(render_metrics(metrics.collect()).find("troupe_now 2\n") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
