#include "actors/device_group.h"

#include <capnp/message.h>

#include <array>
#include <boost/test/unit_test.hpp>
#include <thread>
#include <vector>

#include "kernels/cuda/gpu_memory.h"
#include "runtime/collective/in_process.h"

namespace troupe {
namespace {

using Exchange = schema::ShardSpec::Exchange;

// What two ranks on emulated GPUs get of (1, 2) + (1, 2) in a group that the plan wants to exchange so.
std::array<std::vector<float>, 2> sums(Exchange exchange) {
  auto hosts = collective::make_in_process_group(2);
  std::array<std::vector<float>, 2> sums;
  std::vector<std::jthread> threads;
  for (std::uint32_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      capnp::MallocMessageBuilder message;
      auto spec = message.initRoot<schema::ShardSpec>();
      spec.setExchange(exchange);
      const auto memory = kernels::GpuMemory::make(kernels::open_emulated_gpu(rank)).value();
      const auto group = join_device_group(std::move(hosts[rank]), spec, *memory, {});
      if (!group.ok()) return;
      const std::vector<float> mine{1, 2};
      auto* data = static_cast<float*>(memory->allocate(8, "a test").value());
      memory->upload(data, mine.data(), 8);
      std::vector<float> sum(2);
      if ((*group)->all_reduce({data, 2}).ok() && memory->download(sum.data(), data, 8).ok()) sums[rank] = sum;
      memory->release(data, 8);
    });
  }
  threads.clear();
  return sums;
}

BOOST_AUTO_TEST_SUITE(device_group)

BOOST_AUTO_TEST_CASE(ranks_on_gpus_exchange_whatever_the_plan_and_the_libraries_allow) {
  // No library takes emulated GPUs, which is what the ranks have to agree on where the plan would have NCCL.
  for (const Exchange exchange : {Exchange::NCCL, Exchange::STAGED, Exchange::HOST}) {
    for (const auto& sum : sums(exchange)) {
      BOOST_TEST(sum == std::vector<float>({2, 4}), boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(a_plan_that_has_nccl_for_a_rank_on_cores_is_refused) {
  capnp::MallocMessageBuilder message;
  auto spec = message.initRoot<schema::ShardSpec>();
  spec.setExchange(Exchange::NCCL);
  auto hosts = collective::make_in_process_group(2);
  const auto group = join_device_group(std::move(hosts[0]), spec, kernels::host_memory(), {});
  BOOST_REQUIRE(!group.ok());
  BOOST_TEST((group.error().code == ErrorCode::kInvalidArgument));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe
