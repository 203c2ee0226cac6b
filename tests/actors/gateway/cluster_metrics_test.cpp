#include "actors/gateway/cluster_metrics.h"

#include <boost/test/unit_test.hpp>
#include <caf/all.hpp>
#include <chrono>
#include <string>
#include <vector>

#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"
#include "tests/actors/manual_system.h"

using namespace troupe;
using namespace std::chrono_literals;
using fabric::make_message;
using fabric::Message;

namespace {

using CollectAtom = caf::atom_constant<caf::atom("collect")>;
using AnswerAtom = caf::atom_constant<caf::atom("answer")>;

Message<schema::Stats> stats_of(const std::string& name, double value) {
  return make_message<schema::Stats>([&](schema::Stats::Builder stats) {
    auto family = stats.initFamilies(1)[0];
    family.setName(name);
    family.setKind(schema::Stats::MetricFamily::Kind::GAUGE);
    family.initMetrics(1)[0].setValue(value);
  });
}

// Answers with how often it was asked: at once, or when it is told to.
struct MemberState {
  std::string metric;
  bool at_once = true;
  int asked = 0;
  std::vector<caf::response_promise> promises;
};

caf::behavior member(caf::stateful_actor<MemberState>* self, std::string metric, bool at_once) {
  self->state.metric = std::move(metric);
  self->state.at_once = at_once;
  const auto answer = [self] {
    for (auto& promise : std::exchange(self->state.promises, {})) {
      promise.deliver(stats_of(self->state.metric, self->state.asked));
    }
  };
  return {[=](const Message<schema::StatsRequest>&) {
            ++self->state.asked;
            auto promise = self->make_response_promise();
            self->state.promises.push_back(promise);
            if (self->state.at_once) answer();
            return promise;
          },
          [=](AnswerAtom) { answer(); }};
}

struct OwnerState {
  std::unique_ptr<ClusterMetrics> metrics;
};

caf::behavior owner(caf::stateful_actor<OwnerState>* self, std::vector<caf::actor> members,
                    std::vector<std::string>* scrapes) {
  self->state.metrics = std::make_unique<ClusterMetrics>(self);
  self->state.metrics->work_with(members);
  return {[=](CollectAtom) {
            self->state.metrics->collect(
                [scrapes](const MetricFamilies& families) { scrapes->push_back(render_metrics(families)); });
          },
          [self](MetricsDeadline deadline) { self->state.metrics->close_round(deadline); }};
}

struct Cast : troupe::testing::ManualSystem {
  Cast() {
    quick = system().spawn(member, "quick", true);
    slow = system().spawn(member, "slow", false);
  }

  ~Cast() {
    for (const caf::actor& actor : {quick, slow, collector}) {
      if (actor) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
    }
    run();
  }

  void start(std::vector<caf::actor> members) {
    collector = system().spawn(owner, std::move(members), &scrapes);
    run();
  }

  void collect() {
    caf::anon_send(collector, CollectAtom::value);
    run();
  }
  void answer() {
    caf::anon_send(slow, AnswerAtom::value);
    run();
  }
  bool shows(std::size_t scrape, const std::string& line) const {
    return scrape < scrapes.size() && scrapes[scrape].find(line + "\n") != std::string::npos;
  }

  std::vector<std::string> scrapes;
  caf::actor quick, slow, collector;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cluster_metrics)

BOOST_AUTO_TEST_CASE(nobody_to_ask_is_answered_at_once) {
  Cast cast;
  cast.start({});
  cast.collect();
  BOOST_TEST(cast.scrapes == std::vector<std::string>{""});
}

BOOST_AUTO_TEST_CASE(the_answer_is_complete_as_soon_as_all_have_answered) {
  Cast cast;
  cast.start({cast.quick, cast.slow});
  cast.collect();
  BOOST_TEST(cast.scrapes.empty());
  cast.answer();
  BOOST_TEST(cast.shows(0, "quick 1"));
  BOOST_TEST(cast.shows(0, "slow 1"));
  cast.pass(1s);  // the deadline of a round that is over
  BOOST_TEST(cast.scrapes.size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_busy_member_is_waited_for_until_the_deadline_and_shown_as_it_was) {
  Cast cast;
  cast.start({cast.quick, cast.slow});
  cast.collect();
  cast.pass(499ms);
  BOOST_TEST(cast.scrapes.empty());
  cast.pass(1ms);
  BOOST_TEST(cast.shows(0, "quick 1"));
  BOOST_TEST(!cast.shows(0, "slow 1"));  // nothing is known of it yet
  cast.answer();                         // too late for that one
  cast.collect();
  cast.pass(500ms);
  BOOST_TEST(cast.shows(1, "quick 2"));
  BOOST_TEST(cast.shows(1, "slow 1"));
}

BOOST_AUTO_TEST_CASE(many_scrapes_ask_a_busy_member_once) {
  Cast cast;
  cast.start({cast.slow});
  for (int i = 0; i < 3; ++i) cast.collect();
  cast.pass(500ms);
  BOOST_TEST(cast.scrapes.size() == 3u);
  cast.collect();
  cast.answer();
  BOOST_TEST(cast.shows(3, "slow 1"));
}

BOOST_AUTO_TEST_CASE(a_member_that_is_gone_is_no_longer_shown) {
  Cast cast;
  cast.start({cast.quick, cast.slow});
  cast.collect();
  cast.answer();
  BOOST_TEST(cast.shows(0, "slow 1"));
  caf::anon_send_exit(cast.slow, caf::exit_reason::kill);
  cast.run();
  cast.collect();
  BOOST_TEST(cast.shows(1, "quick 2"));
  BOOST_TEST(!cast.shows(1, "slow 1"));
}

BOOST_AUTO_TEST_SUITE_END()
