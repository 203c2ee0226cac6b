#include <boost/test/unit_test.hpp>
#include <future>
#include <iostream>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/gpu_list.h"
#include "runtime/collective/in_process.h"
#include "runtime/collective/nccl_join.h"
#include "tests/runtime/collective/device_operations.h"

// NCCL itself, between the GPUs of this machine. Where there is none, or one GPU, nothing is checked: the last line
// says why.

namespace troupe::collective::testing {
namespace {

// At most four ranks, with a GPU each; fewer than two where there are no more.
Memories open_gpus() {
  Memories memories;
  const auto gpus = kernels::list_gpus();
  for (std::uint32_t index = 0; gpus.ok() && index < gpus->size() && index < 4; ++index) {
    auto gpu = kernels::open_gpu(index);
    if (!gpu.ok()) continue;
    if (auto memory = kernels::GpuMemory::make(*std::move(gpu)); memory.ok()) memories.push_back(*std::move(memory));
  }
  return memories;
}

Groups join(const NcclLibrary& nccl, Memories& memories) {
  auto hosts = make_in_process_group(static_cast<std::uint32_t>(memories.size()));
  return on_every_rank(static_cast<std::uint32_t>(memories.size()), [&](std::uint32_t rank) {
    kernels::Gpu& gpu = memories[rank]->gpu();
    static_cast<void>(gpu.use_in_this_thread());
    const NcclMember own = {gpu.properties().unique_id, nccl.version, {}};
    auto joined = join_nccl(std::move(hosts[rank]), own, &nccl.functions, *memories[rank], {});
    if (joined.ok() && !joined->nccl) std::cout << joined->text << "\n";
    return joined.ok() ? std::move(joined->nccl) : nullptr;
  });
}

BOOST_AUTO_TEST_CASE(gpus_exchange_by_nccl_and_a_kernel_that_waits_in_vain_is_ended) {
  Memories memories = open_gpus();
  const auto nccl = open_nccl();
  if (memories.size() < 2 || !nccl.ok()) {
    std::cout << "skipped: "
              << (memories.size() < 2 ? std::to_string(memories.size()) + " GPU(s) here, two are needed"
                                      : nccl.error().message)
              << "\n";
    return;
  }
  while (memories.size() >= 2) {
    Groups groups = join(*nccl, memories);
    for (const auto& group : groups) BOOST_REQUIRE(group != nullptr);
    check_operations(memories, groups);

    // Rank 0 begins a sum; the others never come, and then one of them is gone.
    static_cast<void>(memories[0]->gpu().use_in_this_thread());
    {
      const Tensor data(*memories[0], {1, 2, 3});
      BOOST_REQUIRE(groups[0]->all_reduce(data.span()).ok());
      groups.back().reset();
      static_cast<void>(memories[0]->synchronize());
      const Result<void> checked = groups[0]->check();
      BOOST_REQUIRE(!checked.ok());
      BOOST_TEST((checked.error().code == ErrorCode::kUnavailable));
    }
    groups.clear();
    memories.pop_back();
  }
}

}  // namespace
}  // namespace troupe::collective::testing
