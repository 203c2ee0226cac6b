#include "runtime/collective/nccl_communicator.h"

#include <boost/test/unit_test.hpp>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "runtime/collective/in_process.h"
#include "tests/runtime/collective/device_operations.h"
#include "tests/runtime/collective/nccl_stand_in.h"

namespace troupe::collective::testing {
namespace {

using namespace std::chrono_literals;
using Done = NcclStandIn::Done;

constexpr NcclCommunicatorOptions kQuick = {.timeout = 60s, .watch_interval = 2ms};

// The GPUs of a group's ranks, and the group over them.
struct Ranks {
  explicit Ranks(std::uint32_t world_size, Done done = Done::kExchanged) : stand_in(done) {
    for (std::uint32_t rank = 0; rank < world_size; ++rank) {
      memories.push_back(kernels::GpuMemory::make(stand_in.make_gpu(rank)).value());
    }
  }

  void assemble(const NcclCommunicatorOptions& options = kQuick) {
    groups.clear();
    auto hosts = make_in_process_group(static_cast<std::uint32_t>(memories.size()));
    const NcclUniqueId id = stand_in.make_id();
    const NcclFunctions nccl = stand_in.functions();
    for (std::size_t rank = 0; rank < memories.size(); ++rank) {
      NcclComm* comm = nullptr;  // the stand-in queues what comes before all have joined
      NcclConfig config;
      nccl.comm_init_rank_config(&comm, static_cast<int>(memories.size()), id, static_cast<int>(rank), &config);
      groups.push_back(make_nccl_communicator(nccl, comm, std::move(hosts[rank]), *memories[rank], options).value());
    }
  }

  template <class Work>
  auto on_every_rank(const Work& work) {
    return testing::on_every_rank(static_cast<std::uint32_t>(memories.size()), work);
  }

  NcclStandIn stand_in;
  Memories memories;
  Groups groups;
};

template <class Values>
ErrorCode code_of(const Result<Values>& result) {
  BOOST_REQUIRE(!result.ok());
  return result.error().code;
}

BOOST_AUTO_TEST_SUITE(nccl_communicator)

BOOST_AUTO_TEST_CASE(every_operation_gives_the_bits_of_the_host) {
  for (const std::uint32_t world_size : {2u, 3u, 4u}) {
    Ranks ranks(world_size);
    ranks.assemble();
    check_operations(ranks.memories, ranks.groups);
  }
}

BOOST_AUTO_TEST_CASE(operations_of_nothing_are_done_at_once) {
  Ranks ranks(2);
  ranks.assemble();
  BOOST_TEST(ranks.groups[0]->all_reduce({}).ok());
  BOOST_TEST(ranks.groups[0]->all_gather({}, {}).ok());
  BOOST_TEST(ranks.groups[0]->reduce_scatter({}, {}).ok());
  BOOST_TEST(ranks.groups[0]->all_to_all({}, {}).ok());
  BOOST_TEST(ranks.groups[0]->gather({}, {}, 0).ok());
}

BOOST_AUTO_TEST_CASE(an_abort_ends_a_wait_and_the_others_learn_of_it) {
  Ranks ranks(2);
  ranks.assemble();
  auto waiting = std::async(std::launch::async, [&] {
    const Tensor data(*ranks.memories[0], {1, 2});
    return ranks.groups[0]->all_reduce(data.span());
  });
  ranks.groups[0]->abort("epoch 2 begins");
  const Result<void> ended = waiting.get();
  BOOST_TEST((code_of(ended) == ErrorCode::kCancelled));
  BOOST_TEST(ended.error().message == "the group was aborted: epoch 2 begins");
  BOOST_TEST(!ranks.groups[0]->check().ok());
  BOOST_TEST((code_of(ranks.groups[1]->check()) == ErrorCode::kCancelled));
  BOOST_TEST(ranks.stand_in.alive() == 0);
}

BOOST_AUTO_TEST_CASE(a_lost_peer_ends_a_wait_for_it) {
  Ranks ranks(2);
  ranks.assemble();
  auto waiting = std::async(std::launch::async, [&] {
    const Tensor data(*ranks.memories[0], {1, 2});
    return ranks.groups[0]->all_reduce(data.span());
  });
  ranks.groups[1].reset();
  const Result<void> ended = waiting.get();
  BOOST_TEST((code_of(ended) == ErrorCode::kUnavailable));
  BOOST_TEST(ended.error().message == "rank 1 of 2 has left");
}

BOOST_AUTO_TEST_CASE(a_lost_peer_ends_a_kernel_that_waits_for_it) {
  Ranks ranks(2, Done::kQueued);
  ranks.assemble();
  const Tensor data(*ranks.memories[0], {1, 2});
  // Joined, and with nothing to wait for.
  const auto joined = ranks.on_every_rank([&](std::uint32_t rank) -> int {
    const Tensor one(*ranks.memories[rank], {1});
    return ranks.groups[rank]->all_reduce(one.span()).ok() && one.values() == std::vector<float>{2};
  });
  BOOST_REQUIRE((joined[0] && joined[1]));
  BOOST_TEST(ranks.groups[0]->all_reduce(data.span()).ok());
  BOOST_TEST(ranks.groups[0]->check().ok());
  std::jthread death([&] { ranks.groups[1].reset(); });
  // The GPU is waited for in vain, and what is there then is not the sum.
  BOOST_TEST(ranks.memories[0]->synchronize().ok());
  BOOST_TEST((code_of(ranks.groups[0]->check()) == ErrorCode::kUnavailable));
}

BOOST_AUTO_TEST_CASE(the_root_of_a_gather_learns_that_it_has_what_an_abort_leaves) {
  Ranks ranks(2, Done::kQueued);
  ranks.assemble();
  auto waiting = std::async(std::launch::async, [&]() -> Result<void> {
    const Tensor data(*ranks.memories[0], {1, 2}), all(*ranks.memories[0], std::vector<float>(4));
    TROUPE_RETURN_IF_ERROR(ranks.groups[0]->gather(data.span(), all.span(), 0));
    static_cast<void>(ranks.memories[0]->synchronize());
    return ranks.groups[0]->check();
  });
  ranks.groups[1]->abort("a test");
  BOOST_TEST((code_of(waiting.get()) == ErrorCode::kCancelled));
}

BOOST_AUTO_TEST_CASE(a_kernel_whose_peer_never_comes_is_ended_at_the_deadline) {
  Ranks ranks(2, Done::kQueued);
  ranks.assemble({.timeout = 700ms, .watch_interval = 2ms});
  const auto errors = ranks.on_every_rank([&](std::uint32_t rank) -> std::string {
    const Tensor data(*ranks.memories[rank], {1, 2});
    if (!ranks.groups[rank]->all_reduce(data.span()).ok()) return "not joined";
    if (rank == 0 && !ranks.groups[rank]->all_reduce(data.span()).ok()) return "not queued";
    static_cast<void>(ranks.memories[rank]->synchronize());
    const Result<void> checked = ranks.groups[rank]->check();
    return checked.ok() ? std::string() : checked.error().message;
  });
  BOOST_TEST(errors[0] ==
             "NCCL: all_reduce of rank 0 of 2 was not done within 700 ms: another rank does not take part; its own "
             "messages may tell why");
}

BOOST_AUTO_TEST_CASE(an_error_that_nccl_reports_later_ends_a_wait) {
  for (const auto& [status, code] : {std::pair{NcclStatus::kRemoteError, ErrorCode::kUnavailable},
                                     std::pair{NcclStatus::kUnhandledCudaError, ErrorCode::kInternal}}) {
    Ranks ranks(2);
    ranks.assemble();
    auto waiting = std::async(std::launch::async, [&] {
      const Tensor data(*ranks.memories[0], {1, 2});
      return ranks.groups[0]->all_reduce(data.span());
    });
    ranks.stand_in.break_rank(0, status);
    const Result<void> ended = waiting.get();
    BOOST_TEST((code_of(ended) == code));
    BOOST_TEST(ended.error().message.find("(the stand-in was told so); NCCL_DEBUG=INFO shows more") !=
               std::string::npos);
    BOOST_TEST(!ranks.groups[1]->check().ok());
  }
}

BOOST_AUTO_TEST_CASE(a_new_group_serves_after_one_that_failed) {
  Ranks ranks(3);
  for (int epoch = 0; epoch < 3; ++epoch) {
    ranks.assemble();
    const auto sums = ranks.on_every_rank([&](std::uint32_t rank) {
      const Tensor data(*ranks.memories[rank], {1.0f * static_cast<float>(rank), 2});
      return ranks.groups[rank]->all_reduce(data.span()).ok() ? data.values() : std::vector<float>();
    });
    for (const auto& sum : sums) BOOST_TEST(sum == std::vector<float>({3, 6}), boost::test_tools::per_element());
    ranks.groups[1]->abort("a test");
  }
  ranks.groups.clear();
  BOOST_TEST(ranks.stand_in.alive() == 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::collective::testing
