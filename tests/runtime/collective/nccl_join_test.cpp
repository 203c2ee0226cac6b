#include "runtime/collective/nccl_join.h"

#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "runtime/collective/in_process.h"
#include "tests/runtime/collective/device_operations.h"
#include "tests/runtime/collective/nccl_stand_in.h"

namespace troupe::collective::testing {
namespace {

using namespace std::chrono_literals;

struct Outcome {
  std::string text;  // of the joined group, or the error
  bool is_nccl = false;
  std::vector<float> sum;  // of what both ranks brought, over the group that came of it
};

// Two ranks that join, and add (1, 2) each.
std::vector<Outcome> join(NcclStandIn& stand_in, const NcclFunctions& nccl, std::chrono::milliseconds join_timeout) {
  Memories memories;
  for (std::uint32_t rank = 0; rank < 2; ++rank) {
    memories.push_back(kernels::GpuMemory::make(stand_in.make_gpu(rank)).value());
  }
  auto hosts = make_in_process_group(2);
  auto outcomes = on_every_rank(2, [&](std::uint32_t rank) {
    auto joined = join_nccl(std::move(hosts[rank]), {rank + 1, 22703, {}}, &nccl, *memories[rank],
                            {.agreement_timeout = 60s, .join_timeout = join_timeout});
    if (!joined.ok()) return Outcome{joined.error().message, false, {}};
    // Boost.Test's checks are for one thread: what is wrong shows in the outcome.
    if ((joined->nccl == nullptr) == (joined->host == nullptr)) return Outcome{"not one of the two groups", false, {}};
    Outcome outcome{joined->text, joined->nccl != nullptr, {1, 2}};
    if (joined->host) {
      if (!joined->host->all_reduce(outcome.sum).ok()) outcome.sum.clear();
      return outcome;
    }
    const Tensor data(*memories[rank], outcome.sum);
    outcome.sum = joined->nccl->all_reduce(data.span()).ok() ? data.values() : std::vector<float>();
    return outcome;
  });
  BOOST_TEST(stand_in.alive() == 0);
  return outcomes;
}

void check(const std::vector<Outcome>& outcomes, bool is_nccl, const std::string& text) {
  for (const Outcome& outcome : outcomes) {
    BOOST_TEST(outcome.text == text);
    BOOST_TEST(outcome.is_nccl == is_nccl);
    BOOST_TEST(outcome.sum == std::vector<float>({2, 4}), boost::test_tools::per_element());
  }
}

constexpr const char* kRemedy = "; NCCL_DEBUG=INFO shows what it waits for, TROUPE_NCCL=off does without trying";

BOOST_AUTO_TEST_SUITE(nccl_join)

BOOST_AUTO_TEST_CASE(ranks_that_nccl_connects_exchange_over_it) {
  NcclStandIn stand_in;
  check(join(stand_in, stand_in.functions(), 60s), true, "NCCL 2.27.3");
}

BOOST_AUTO_TEST_CASE(a_rank_that_cannot_join_leaves_all_of_them_with_the_group_on_the_host) {
  NcclStandIn stand_in;
  NcclFunctions nccl = stand_in.functions();
  static decltype(nccl.comm_init_rank_config) init;
  init = nccl.comm_init_rank_config;
  nccl.comm_init_rank_config = [](NcclComm** comm, int ranks, NcclUniqueId id, int rank, NcclConfig* config) {
    return rank == 1 ? NcclStatus::kSystemError : init(comm, ranks, id, rank, config);
  };
  // The other one waits for it until then; its own failure is that of the first rank that has one.
  check(join(stand_in, nccl, 50ms), false,
        std::string("rank 0: NCCL has not connected the ranks within 50 ms (limit nccl_join_timeout_ms)") + kRemedy);
}

BOOST_AUTO_TEST_CASE(an_error_while_nccl_connects_is_told_to_all) {
  NcclStandIn stand_in;
  NcclFunctions nccl = stand_in.functions();
  nccl.comm_get_async_error = [](NcclComm*, NcclStatus* status) {
    *status = NcclStatus::kUnhandledCudaError;
    return NcclStatus::kSuccess;
  };
  check(join(stand_in, nccl, 60s), false,
        std::string("rank 0: NCCL cannot connect the ranks: an error (the stand-in was told so)") + kRemedy);
}

BOOST_AUTO_TEST_CASE(ranks_that_cannot_take_part_do_not_try) {
  auto hosts = make_in_process_group(2);
  const auto texts = on_every_rank(2, [&](std::uint32_t rank) {
    const auto joined = join_nccl(std::move(hosts[rank]), {rank, 0, rank == 1 ? "no NCCL" : "TROUPE_NCCL=off"}, nullptr,
                                  kernels::host_memory(), {});
    return joined.ok() && joined->host ? joined->text : "an error";
  });
  for (const std::string& text : texts) BOOST_TEST(text == "rank 0: TROUPE_NCCL=off");
}

BOOST_AUTO_TEST_CASE(a_peer_that_goes_while_nccl_connects_is_an_error) {
  NcclStandIn stand_in;
  const NcclFunctions nccl = stand_in.functions();
  const auto memory = kernels::GpuMemory::make(stand_in.make_gpu(0)).value();
  auto hosts = make_in_process_group(2);
  const auto texts = on_every_rank(2, [&](std::uint32_t rank) -> std::string {
    std::unique_ptr<Communicator> host = std::move(hosts[rank]);
    if (rank == 1) {  // agrees, and dies
      static_cast<void>(agree_on_nccl(*host, {2, 22703, {}}, &nccl, 60s));
      return {};
    }
    const auto joined = join_nccl(std::move(host), {1, 22703, {}}, &nccl, *memory, {});
    return joined.ok() ? "joined" : joined.error().message;
  });
  BOOST_TEST(texts[0] == "rank 1 of 2 has left");
  BOOST_TEST(stand_in.alive() == 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::collective::testing
