#include "tests/runtime/collective/device_operations.h"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <functional>
#include <random>

#include "runtime/collective/in_process.h"

namespace troupe::collective::testing {
namespace {

// What rank `rank` contributes: numbers of very different size, so that the order of a sum shows in its bits.
std::vector<float> contribution(std::uint32_t rank, std::size_t size) {
  std::mt19937 engine(rank + 1);
  std::uniform_real_distribution<float> exponent(-10, 10);
  std::vector<float> values(size);
  for (float& value : values) value = std::exp2(exponent(engine)) * (engine() % 2 == 0 ? 1.0f : -1.0f);
  return values;
}

// What an operation leaves in `out` of every rank, done in the memories of GPUs and on the host.
using Operation = std::function<Result<void>(Communicator&, std::span<float> in, std::span<float> out)>;
using Outputs = std::vector<std::vector<float>>;

Outputs on_gpus(Memories& memories, Groups& groups, std::size_t in_size, std::size_t out_size,
                const Operation& operation) {
  return on_every_rank(static_cast<std::uint32_t>(groups.size()), [&](std::uint32_t rank) {
    if (!memories[rank]->gpu().use_in_this_thread().ok()) return std::vector<float>{NAN};
    const Tensor in(*memories[rank], contribution(rank, in_size));
    const Tensor out(*memories[rank], std::vector<float>(out_size));
    const Result<void> done = operation(*groups[rank], in.span(), out.span());
    return done.ok() ? out.values() : std::vector<float>{NAN};
  });
}

Outputs on_host(std::uint32_t world_size, std::size_t in_size, std::size_t out_size, const Operation& operation) {
  auto group = make_in_process_group(world_size);
  return on_every_rank(world_size, [&](std::uint32_t rank) {
    std::vector<float> in = contribution(rank, in_size), out(out_size);
    return operation(*group[rank], in, out).ok() ? out : std::vector<float>{0};
  });
}

// In place: the result lies in the input.
Outputs sums_on_gpus(Memories& memories, Groups& groups, std::size_t size) {
  return on_every_rank(static_cast<std::uint32_t>(groups.size()), [&](std::uint32_t rank) {
    if (!memories[rank]->gpu().use_in_this_thread().ok()) return std::vector<float>{NAN};
    const Tensor data(*memories[rank], contribution(rank, size));
    return groups[rank]->all_reduce(data.span()).ok() ? data.values() : std::vector<float>{NAN};
  });
}

Outputs gathered_from_gpus(Memories& memories, Groups& groups, std::size_t size, std::uint32_t root) {
  return on_every_rank(static_cast<std::uint32_t>(groups.size()), [&](std::uint32_t rank) {
    if (!memories[rank]->gpu().use_in_this_thread().ok()) return std::vector<float>{NAN};
    const Tensor in(*memories[rank], contribution(rank, size));
    const Tensor out(*memories[rank], std::vector<float>(rank == root ? groups.size() * size : 0));
    const Result<void> done = groups[rank]->gather(in.span(), out.span(), root);
    return done.ok() && memories[rank]->synchronize().ok() ? out.values() : std::vector<float>{NAN};
  });
}

}  // namespace

void check_operations(Memories& memories, Groups& groups) {
  const auto world_size = static_cast<std::uint32_t>(groups.size());
  // The last two are beyond what is gathered whole; one of them is no multiple of any number of ranks.
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{2}, std::size_t{5}, std::size_t{1027}, std::size_t{65'544}, std::size_t{65'551}}) {
    BOOST_TEST_CONTEXT(world_size << " ranks, " << size << " floats") {
      const auto same = [&](std::size_t in_size, std::size_t out_size, const Operation& operation) {
        return on_gpus(memories, groups, in_size, out_size, operation) ==
               on_host(world_size, in_size, out_size, operation);
      };
      const Outputs sums = on_host(world_size, size, size, [](Communicator& group, auto in, auto out) {
        const Result<void> done = group.all_reduce(in);
        std::ranges::copy(in, out.begin());
        return done;
      });
      BOOST_TEST((sums_on_gpus(memories, groups, size) == sums));
      BOOST_TEST(same(size, world_size * size,
                      [](Communicator& group, auto in, auto out) { return group.all_gather(in, out); }));
      BOOST_TEST(same(world_size * size, size,
                      [](Communicator& group, auto in, auto out) { return group.reduce_scatter(in, out); }));
      BOOST_TEST(same(world_size * size, world_size * size,
                      [](Communicator& group, auto in, auto out) { return group.all_to_all(in, out); }));
      const std::uint32_t root = world_size - 1;
      Outputs gathered(world_size);
      gathered[root] = on_host(world_size, size, world_size * size,
                               [](Communicator& group, auto in, auto out) { return group.all_gather(in, out); })[root];
      BOOST_TEST((gathered_from_gpus(memories, groups, size, root) == gathered));
    }
  }
}

}  // namespace troupe::collective::testing
