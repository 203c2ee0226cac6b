#include "actors/stats.h"

#include <capnp/message.h>

#include <boost/test/unit_test.hpp>

using namespace troupe;

BOOST_AUTO_TEST_SUITE(stats)

BOOST_AUTO_TEST_CASE(families_travel_unchanged) {
  Metrics metrics;
  metrics.counter("troupe_steps_total", "Steps.", {{"stage", "1"}}).Increment(7);
  metrics.gauge("troupe_kv_blocks", "Blocks.").Set(0.5);
  metrics.histogram("troupe_step_seconds", "Time of a step.", {0.1, 1}).Observe(0.3);
  capnp::MallocMessageBuilder message;
  write_families(metrics.collect(), message.initRoot<schema::Stats>());
  BOOST_TEST(render_metrics(read_families(message.getRoot<schema::Stats>().asReader())) ==
             render_metrics(metrics.collect()));
}

BOOST_AUTO_TEST_CASE(a_histogram_with_unequal_lists_or_unsorted_bounds_is_left_out) {
  capnp::MallocMessageBuilder message;
  auto family = message.initRoot<schema::Stats>().initFamilies(1)[0];
  family.setName("troupe_step_seconds");
  family.setKind(schema::Stats::MetricFamily::Kind::HISTOGRAM);
  auto metrics = family.initMetrics(2);
  metrics[0].initBucketBounds(2);
  metrics[0].initBucketCounts(1);
  metrics[1].initBucketBounds(2).set(0, 1);
  metrics[1].initBucketCounts(2);
  const auto families = read_families(message.getRoot<schema::Stats>().asReader());
  BOOST_REQUIRE(families.size() == 1u);
  BOOST_TEST(families[0].metric.empty());
}

BOOST_AUTO_TEST_SUITE_END()
