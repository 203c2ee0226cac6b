#include "actors/stage.h"

#include <boost/test/unit_test.hpp>
#include <caf/all.hpp>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "actors/stats.h"
#include "runtime/fabric/message.h"
#include "schema/activation.capnp.h"
#include "schema/cluster.capnp.h"
#include "schema/step.capnp.h"
#include "tests/actors/manual_system.h"

using namespace troupe;
using namespace std::chrono_literals;
using fabric::make_message;
using fabric::Message;

namespace {

constexpr std::uint64_t kEpoch = 3;

// Writes down what reaches it: "step 1", "activation 1 of stage 0", "result 1".
caf::behavior witness(caf::event_based_actor*, std::vector<std::string>* seen) {
  return {[seen](const Message<schema::Step>& message) {
            seen->push_back("step " + std::to_string(message.read()->getFence().getStep()));
          },
          [seen](const Message<schema::Activation>& message) {
            const auto activation = message.read();
            seen->push_back("activation " + std::to_string(activation->getStep().getFence().getStep()) + " of stage " +
                            std::to_string(activation->getProducedBy()));
          },
          [seen](const Message<schema::StepResult>& message) {
            seen->push_back("result " + std::to_string(message.read()->getFence().getStep()));
          }};
}

// Stage 1 of `stages` with two ranks; everybody around it is a witness.
struct Cast : troupe::testing::ManualSystem {
  explicit Cast(std::uint32_t stages = 3) : self(system()) {
    for (const char* name : {"scheduler/0", "stage/0/2", "shard/0/1/0", "shard/0/1/1"}) {
      others[name] = system().spawn(witness, &seen[name]);
    }
    stage = spawn_stage(system(), {.stage = 1,
                                   .stages = stages,
                                   .ranks = 2,
                                   .resolve =
                                       [this](schema::ActorAddress::Reader address) {
                                         const auto found = others.find(address.getActor());
                                         return found == others.end() ? caf::actor{} : found->second;
                                       },
                                   .node = "left"});
    run();
  }

  ~Cast() {
    caf::anon_send_exit(stage, caf::exit_reason::user_shutdown);
    for (const auto& [name, actor] : others) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
    run();
  }

  bool assemble(const std::vector<std::string>& names) {
    auto asked = self->request(stage, caf::infinite, make_message<schema::Assemble>([&](schema::Assemble::Builder out) {
                                 out.setEpoch(kEpoch);
                                 auto actors = out.initActors(static_cast<unsigned>(names.size()));
                                 for (unsigned i = 0; i < actors.size(); ++i) actors[i].setActor(names[i]);
                               }));
    run();
    bool ok = false;
    asked.receive([&](const Message<schema::Outcome>& outcome) { ok = outcome.read()->isOk(); },
                  [](const caf::error&) { BOOST_ERROR("no answer to Assemble"); });
    return ok;
  }
  bool assemble() { return assemble({"scheduler/0", "stage/0/2", "shard/0/1/0", "shard/0/1/1"}); }

  void activation(std::uint64_t step, std::uint32_t produced_by, std::uint64_t epoch = kEpoch) {
    caf::anon_send(stage, make_message<schema::Activation>([&](schema::Activation::Builder out) {
                     out.initStep().initFence().setEpoch(epoch);
                     out.getStep().getFence().setStep(step);
                     out.setProducedBy(produced_by);
                   }));
    run();
  }

  void result(std::uint64_t step) {
    caf::anon_send(stage, make_message<schema::StepResult>([&](schema::StepResult::Builder out) {
                     out.initFence().setEpoch(kEpoch);
                     out.getFence().setStep(step);
                   }));
    run();
  }

  std::string metrics() {
    auto asked = self->request(stage, caf::infinite, make_message<schema::StatsRequest>([](auto) {}));
    run();
    std::string text;
    asked.receive([&](const Message<schema::Stats>& stats) { text = render_metrics(read_families(*stats.read())); },
                  [](const caf::error&) { BOOST_ERROR("no answer to StatsRequest"); });
    return text;
  }

  caf::scoped_actor self;
  std::map<std::string, std::vector<std::string>> seen;
  std::map<std::string, caf::actor> others;
  caf::actor stage;
};

using Seen = std::vector<std::string>;

}  // namespace

BOOST_AUTO_TEST_SUITE(stage)

BOOST_AUTO_TEST_CASE(hidden_states_reach_every_shard_and_their_output_the_next_stage) {
  Cast cast;
  BOOST_REQUIRE(cast.assemble());
  cast.activation(1, 0);
  cast.activation(1, 1);
  BOOST_TEST(cast.seen["shard/0/1/0"] == Seen{"activation 1 of stage 0"});
  BOOST_TEST(cast.seen["shard/0/1/1"] == Seen{"activation 1 of stage 0"});
  BOOST_TEST(cast.seen["stage/0/2"] == Seen{"activation 1 of stage 1"});
  cast.result(2);  // a failed one
  BOOST_TEST(cast.seen["scheduler/0"] == Seen{"result 2"});
}

BOOST_AUTO_TEST_CASE(messages_of_another_epoch_are_dropped) {
  Cast cast;
  cast.activation(1, 0);  // before the first epoch
  BOOST_REQUIRE(cast.assemble());
  cast.activation(1, 0, kEpoch - 1);
  cast.activation(1, 0, kEpoch + 1);
  BOOST_TEST(cast.seen["shard/0/1/0"].empty());
}

BOOST_AUTO_TEST_CASE(an_assembly_that_lacks_a_member_is_refused) {
  Cast cast;
  BOOST_TEST(!cast.assemble({"scheduler/0", "stage/0/2", "shard/0/1/0"}));
  BOOST_TEST(!cast.assemble({"scheduler/0", "shard/0/1/0", "shard/0/1/1"}));
  BOOST_TEST(!cast.assemble({"stage/0/2", "shard/0/1/0", "shard/0/1/1"}));
  Cast last(2);
  BOOST_TEST(last.assemble({"scheduler/0", "shard/0/1/0", "shard/0/1/1"}));
}

BOOST_AUTO_TEST_CASE(stats_show_the_time_from_a_steps_arrival_to_its_output) {
  Cast cast(2);
  BOOST_REQUIRE(cast.assemble());
  cast.activation(1, 0);
  cast.activation(2, 0);
  cast.pass(30ms);
  cast.result(1);
  cast.result(1);  // another rank failed at it
  cast.pass(20ms);
  cast.result(2);
  const std::string text = cast.metrics();
  const std::string labels = "{actor=\"stage/0/1\",node=\"left\"}";
  BOOST_TEST(text.find("troupe_stage_step_seconds_count" + labels + " 2\n") != std::string::npos, text);
  BOOST_TEST(text.find("troupe_stage_step_seconds_sum" + labels + " 0.08\n") != std::string::npos, text);
}

BOOST_AUTO_TEST_SUITE_END()
