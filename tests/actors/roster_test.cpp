#include "actors/roster.h"

#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "tests/actors/manual_system.h"

using namespace troupe;

namespace {

// Two replicas of one stage, of which the second has an expert actor; each on a node of its own.
Roster two_replicas() {
  std::vector<ActorOrder> orders;
  const auto add = [&](const std::string& actor, const std::string& node, std::optional<std::uint32_t> replica) {
    orders.push_back({.actor = actor, .node = node, .device = "", .replica = replica, .spawn = {}});
  };
  add("gateway", "a", std::nullopt);
  for (const std::uint32_t replica : {0u, 1u}) {
    const std::string number = std::to_string(replica), node = replica == 0 ? "a" : "b";
    add("scheduler/" + number, node, replica);
    add("stage/" + number + "/0", node, replica);
    add("shard/" + number + "/0/0", node, replica);
  }
  add("expert/1/0/0", "b", 1u);
  Roster roster({"a", "b"}, std::move(orders));
  for (auto& [name, node] : roster.nodes) {
    node.phase = Roster::NodePhase::kJoined;
    node.incarnation = name == "a" ? 7 : 8;
    node.endpoint = name + ":1";
  }
  return roster;
}

struct Cast : troupe::testing::ManualSystem {
  Cast() {
    somebody = system().spawn([](caf::event_based_actor*) -> caf::behavior { return {[](int) {}}; });
  }
  ~Cast() {
    caf::anon_send_exit(somebody, caf::exit_reason::user_shutdown);
    run();
  }

  // The names that are resolved for a phase; of the first one, the nodes.
  std::vector<std::string> asked_in(Roster& roster, std::size_t phase, std::uint32_t replica) {
    std::vector<std::string> asked;
    const auto targets = roster.targets_of_phase(phase, replica, [&](const schema::ActorAddress::Reader& address) {
      asked.emplace_back(address.getActor().cStr());
      return somebody;
    });
    if (phase == 0) {
      for (const Roster::Target& target : targets) asked.push_back(target.node);
    }
    return asked;
  }

  caf::actor somebody;
};

using Names = std::vector<std::string>;

}  // namespace

BOOST_AUTO_TEST_SUITE(roster)

BOOST_AUTO_TEST_CASE(who_serves_a_step_learns_of_an_epoch_before_who_sends_one) {
  Cast cast;
  Roster roster = two_replicas();
  const std::vector<Names> expected = {{"a", "b"},    {"expert/1/0/0"}, {"shard/1/0/0"},
                                       {"stage/1/0"}, {"scheduler/1"},  {"gateway"}};
  BOOST_REQUIRE(expected.size() == Roster::kAssemblyPhases);
  for (std::size_t phase = 0; phase < expected.size(); ++phase) {
    BOOST_TEST(cast.asked_in(roster, phase, 1) == expected[phase], boost::test_tools::per_element());
  }
  BOOST_TEST(cast.asked_in(roster, 1, 0).empty(), "a replica without experts has nobody in that phase");
  BOOST_TEST(cast.asked_in(roster, 2, 0) == Names{"shard/0/0/0"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_replica_is_complete_when_its_members_and_the_gateway_are_ready) {
  Roster roster = two_replicas();
  for (Roster::Member& member : roster.members) {
    if (member.order.actor != "expert/1/0/0") member.phase = Roster::ActorPhase::kReady;
  }
  BOOST_TEST(roster.is_complete(0));
  BOOST_TEST(!roster.is_complete(1));
  roster.find("expert/1/0/0")->phase = Roster::ActorPhase::kReady;
  BOOST_TEST(roster.is_complete(1));
  roster.find("gateway")->phase = Roster::ActorPhase::kLost;
  BOOST_TEST(!roster.is_complete(0));
  BOOST_TEST(roster.find("expert/0/0/0") == nullptr);
}

BOOST_AUTO_TEST_CASE(an_assembly_names_everybody_of_its_replica_with_their_incarnations) {
  Roster roster = two_replicas();
  roster.replicas.at(1).epoch = 5;
  const auto message = roster.assemble_message(1);
  const auto plan = message.read();
  BOOST_TEST(plan->getReplica() == 1u);
  BOOST_TEST(plan->getEpoch() == 5u);
  Names names;
  for (const auto address : plan->getActors()) {
    names.emplace_back(address.getActor().cStr());
    BOOST_TEST(address.getNode().getIncarnation() == (names.back() == "gateway" ? 7u : 8u));
  }
  BOOST_TEST(names == (Names{"gateway", "scheduler/1", "stage/1/0", "shard/1/0/0", "expert/1/0/0"}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_actor_of_a_node_that_is_away_has_no_handle) {
  Cast cast;
  Roster roster = two_replicas();
  roster.nodes.at("b").phase = Roster::NodePhase::kStarting;
  const auto resolve = [&](const schema::ActorAddress::Reader&) { return cast.somebody; };
  BOOST_TEST((roster.handle_of("shard/0/0/0", resolve) != nullptr));
  BOOST_TEST((roster.handle_of("expert/1/0/0", resolve) == nullptr));
  BOOST_TEST((roster.handle_of("expert/9/0/0", resolve) == nullptr));
  roster.find("expert/1/0/0")->phase = Roster::ActorPhase::kLost;
  const auto status = roster.status("c").read();
  const auto last = status->getActors()[7];
  BOOST_TEST(std::string(last.getActor()) == "expert/1/0/0");
  BOOST_TEST(std::string(last.getState()) == "lost");
  BOOST_TEST(last.getIncarnation() == 8u);
  BOOST_TEST(!status->getReady());
}

BOOST_AUTO_TEST_SUITE_END()
