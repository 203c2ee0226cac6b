#include "runtime/engine/fair_share.h"

#include <boost/test/unit_test.hpp>

#include "tests/runtime/engine/replica.h"

using namespace troupe::engine;
using namespace troupe::engine::testing;

BOOST_AUTO_TEST_SUITE(fair_share)

BOOST_AUTO_TEST_CASE(a_tenant_that_comes_begins_with_the_least_served_of_those_who_are_there) {
  FairShare share(10);
  share.enter(1);
  share.charge(1, 500);
  share.enter(2);
  BOOST_TEST(share.served(2) == 500u);
  share.charge(2, 40);
  share.enter(3);
  BOOST_TEST(share.served(3) == 500u);
}

BOOST_AUTO_TEST_CASE(idleness_saves_nothing_up_and_going_away_forgives_nothing) {
  FairShare share(10);
  share.enter(1);
  share.enter(2);
  share.charge(1, 100);
  share.leave(1);
  share.charge(1, 20);  // its last token comes after it has left
  share.charge(2, 50);
  share.enter(1);
  BOOST_TEST(share.served(1) == 120u);
  share.leave(1);
  share.charge(2, 950);
  share.enter(1);
  BOOST_TEST(share.served(1) == 1'000u);
}

BOOST_AUTO_TEST_CASE(only_idle_tenants_that_owe_something_are_remembered_and_no_more_than_the_limit) {
  FairShare share(2);
  share.enter(1);
  for (Tenant tenant = 2; tenant < 8; ++tenant) {
    share.enter(tenant);
    share.charge(tenant, tenant);
  }
  for (Tenant tenant = 2; tenant < 8; ++tenant) share.leave(tenant);
  BOOST_TEST(share.idle_tenants() == 2u);
  share.enter(7);
  BOOST_TEST(share.served(7) == 7u);
  share.enter(2);  // forgotten
  BOOST_TEST(share.served(2) == 0u);
  share.leave(1);
  BOOST_TEST(share.idle_tenants() == 1u);  // 6 has used more than 2 that is there
  share.leave(2);
  BOOST_TEST(share.idle_tenants() == 0u);  // and less than 7
  share.enter(8);
  share.charge(8, 1);
  share.leave(8);
  share.leave(7);
  BOOST_TEST(share.idle_tenants() == 0u);  // when nobody asks for anything, nobody owes anything
}

BOOST_AUTO_TEST_CASE(a_tenant_with_few_requests_is_not_behind_one_with_many) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 1;
  Replica replica(options);
  for (std::uint64_t request = 0; request < 20; ++request) {
    BOOST_TEST(replica.admit({.request = request, .prompt = prompt_of(4), .max_tokens = 4, .tenant = 1}).ok());
  }
  for (std::uint64_t request = 20; request < 23; ++request) {
    BOOST_TEST(replica.admit({.request = request, .prompt = prompt_of(4), .max_tokens = 4, .tenant = 2}).ok());
  }
  std::vector<std::uint64_t> order;
  replica.on_step = [&](troupe::schema::Step::Reader step, const FlatStep&) {
    for (const auto start : step.getStarts()) order.push_back(start.getSequence() - 1);
  };
  replica.run_until_idle();
  const std::vector<std::uint64_t> expected{0, 20, 1, 21, 2, 22, 3, 4};
  BOOST_TEST(std::vector(order.begin(), order.begin() + 8) == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(shares_are_of_tokens_not_of_requests) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 1;
  Replica replica(options);
  std::uint64_t request = 0;
  for (; request < 10; ++request) {
    BOOST_TEST(replica.admit({.request = request, .prompt = prompt_of(20), .max_tokens = 20, .tenant = 1}).ok());
  }
  for (; request < 60; ++request) {
    BOOST_TEST(replica.admit({.request = request, .prompt = prompt_of(4), .max_tokens = 4, .tenant = 2}).ok());
  }
  std::vector<int> begun(3);
  std::vector<int> begun_when_the_long_ones_had(6);
  replica.on_step = [&](troupe::schema::Step::Reader step, const FlatStep&) {
    for (const auto start : step.getStarts()) {
      const int tenant = start.getSequence() <= 10 ? 1 : 2;
      ++begun[tenant];
      if (tenant == 1 && begun[1] < 6) begun_when_the_long_ones_had[begun[1]] = begun[2];
    }
  };
  replica.run_until_idle();
  // 40 tokens each against 8: five short requests for a long one.
  for (int i = 1; i < 6; ++i) BOOST_TEST(std::abs(begun_when_the_long_ones_had[i] - 5 * (i - 1)) <= 1);
}

BOOST_AUTO_TEST_SUITE_END()
