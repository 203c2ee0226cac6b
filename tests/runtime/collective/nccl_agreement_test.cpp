#include "runtime/collective/nccl_agreement.h"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <thread>
#include <vector>

#include "runtime/collective/in_process.h"
#include "tests/runtime/collective/nccl_stand_in.h"

namespace troupe::collective::testing {
namespace {

using namespace std::chrono_literals;

std::vector<Result<NcclAgreement>> agree(const std::vector<NcclMember>& members, const NcclFunctions& nccl) {
  auto hosts = make_in_process_group(static_cast<std::uint32_t>(members.size()));
  std::vector<Result<NcclAgreement>> agreements(members.size(), internal_error("nothing yet"));
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < members.size(); ++rank) {
    threads.emplace_back([&, rank] { agreements[rank] = agree_on_nccl(*hosts[rank], members[rank], &nccl, 60s); });
  }
  threads.clear();
  return agreements;
}

BOOST_AUTO_TEST_SUITE(nccl_agreement)

BOOST_AUTO_TEST_CASE(ranks_with_gpus_of_their_own_and_one_library_get_one_id) {
  const NcclStandIn stand_in;
  const auto agreements = agree({{1, 22703, {}}, {2, 22703, {}}, {3, 22703, {}}}, stand_in.functions());
  for (const auto& agreement : agreements) {
    BOOST_REQUIRE(agreement.ok());
    BOOST_TEST(agreement->text == "NCCL 2.27.3");
    BOOST_REQUIRE(agreement->id.has_value());
    BOOST_TEST(std::memcmp(agreement->id->bytes, agreements[0]->id->bytes, sizeof agreement->id->bytes) == 0);
    BOOST_TEST(agreement->id->bytes[127] == '\xa5');
  }
}

BOOST_AUTO_TEST_CASE(whoever_cannot_take_part_keeps_all_of_them_from_it) {
  const NcclStandIn stand_in;
  const auto check = [&](const std::vector<NcclMember>& members, const std::string& expected) {
    for (const auto& agreement : agree(members, stand_in.functions())) {
      BOOST_REQUIRE(agreement.ok());
      BOOST_TEST(!agreement->id.has_value());
      BOOST_TEST(agreement->text == expected);
    }
  };
  check({{1, 22703, {}}, {1, 22703, {}}}, "ranks 0 and 1 share a GPU");
  check({{1, 22703, {}}, {2, 22703, {}}, {1, 22703, {}}}, "ranks 0 and 2 share a GPU");
  check({{1, 22703, {}}, {2, 0, "NCCL cannot be loaded\n"}}, "rank 1: NCCL cannot be loaded\\u000a");
  check({{1, 22703, {}}, {2, 22105, {}}},
        "rank 0 has NCCL 2.27.3 and rank 1 has 2.21.5; install the same one for both");
  check({{1, 22703, {}}, {2, 0, std::string(1000, 'x')}}, "rank 1: " + std::string(243, 'x'));
}

BOOST_AUTO_TEST_CASE(an_id_that_cannot_be_made_is_no_nccl_for_any_rank) {
  const NcclStandIn stand_in;
  NcclFunctions functions = stand_in.functions();
  functions.get_unique_id = [](NcclUniqueId*) { return NcclStatus::kSystemError; };
  for (const auto& agreement : agree({{1, 22703, {}}, {2, 22703, {}}}, functions)) {
    BOOST_REQUIRE(agreement.ok());
    BOOST_TEST(!agreement->id.has_value());
    BOOST_TEST(agreement->text == "NCCL cannot start: an error; NCCL_DEBUG=INFO shows more");
  }
}

BOOST_AUTO_TEST_CASE(a_rank_that_does_not_come_is_not_waited_for_longer_than_that) {
  auto hosts = make_in_process_group(2);
  const auto agreement = agree_on_nccl(*hosts[0], {1, 0, "none here"}, nullptr, 10ms);
  BOOST_REQUIRE(!agreement.ok());
  BOOST_TEST((agreement.error().code == ErrorCode::kCancelled));
  BOOST_TEST(agreement.error().message ==
             "the group was aborted: the ranks did not agree on how to exchange within 10 ms");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::collective::testing
