#include "runtime/collective/in_process.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <latch>
#include <random>
#include <thread>

#include "runtime/collective/rank_order.h"
#include "runtime/collective/solo.h"

using namespace troupe;
using namespace troupe::collective;
using namespace std::chrono_literals;

BOOST_AUTO_TEST_SUITE(in_process)

using Group = std::vector<std::unique_ptr<Communicator>>;

// Runs `work` once for each rank, each in a thread of its own, and returns what each got.
template <class Work>
static auto on_every_rank(Group& group, const Work& work) {
  std::vector<decltype(work(*group[0]))> results(group.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t rank = 0; rank < group.size(); ++rank) {
      threads.emplace_back([&, rank] { results[rank] = work(*group[rank]); });
    }
  }
  return results;
}

// What rank `rank` contributes: numbers of very different size, so that the order of a sum shows in its bits.
static std::vector<float> contribution(std::uint32_t rank, std::size_t size) {
  std::mt19937 engine(rank + 1);
  std::uniform_real_distribution<float> exponent(-10, 10);
  std::vector<float> values(size);
  for (float& value : values) value = std::exp2(exponent(engine)) * (engine() % 2 == 0 ? 1.0f : -1.0f);
  return values;
}

static std::vector<float> sum_of_contributions(std::uint32_t world_size, std::size_t size) {
  std::vector<float> sum = contribution(0, size);
  for (std::uint32_t rank = 1; rank < world_size; ++rank) {
    const auto values = contribution(rank, size);
    for (std::size_t i = 0; i < size; ++i) sum[i] += values[i];
  }
  return sum;
}

static std::vector<float> part(const std::vector<float>& values, std::size_t index, std::size_t size) {
  return {values.begin() + std::ptrdiff_t(index * size), values.begin() + std::ptrdiff_t((index + 1) * size)};
}

static void append(std::vector<float>& to, const std::vector<float>& values) {
  to.insert(to.end(), values.begin(), values.end());
}

BOOST_AUTO_TEST_CASE(every_rank_holds_the_sum_in_rank_order_to_the_bit) {
  for (const std::uint32_t world_size : {1, 2, 3, 4}) {
    for (const std::size_t split_above : {0, 1 << 20}) {
      auto group = make_in_process_group(world_size, {.split_above_floats = split_above});
      for (const std::size_t size : {0, 1, 2, 5, 4097}) {
        const auto expected = sum_of_contributions(world_size, size);
        const auto sums = on_every_rank(group, [&](Communicator& communicator) {
          auto data = contribution(communicator.rank(), size);
          return communicator.all_reduce(data).ok() ? data : std::vector<float>(size, NAN);
        });
        for (const auto& sum : sums) BOOST_TEST((sum == expected));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(parts_reach_the_ranks_they_belong_to) {
  for (const std::uint32_t world_size : {1, 2, 3, 4}) {
    constexpr std::size_t kPart = 37;
    auto group = make_in_process_group(world_size);
    const std::size_t all = world_size * kPart;
    std::vector<float> gathered;
    for (std::uint32_t rank = 0; rank < world_size; ++rank) append(gathered, contribution(rank, kPart));

    struct Outs {
      bool ok = false;
      std::vector<float> gathered, scattered, exchanged, at_root;
    };
    const std::uint32_t root = world_size - 1;
    const auto outs = on_every_rank(group, [&](Communicator& communicator) {
      const std::uint32_t rank = communicator.rank();
      Outs out{true, std::vector<float>(all), std::vector<float>(kPart), std::vector<float>(all), {}};
      if (rank == root) out.at_root.resize(all);
      out.ok = communicator.all_gather(contribution(rank, kPart), out.gathered).ok() &&
               communicator.reduce_scatter(contribution(rank, all), out.scattered).ok() &&
               communicator.all_to_all(contribution(rank, all), out.exchanged).ok() &&
               communicator.gather(contribution(rank, kPart), out.at_root, root).ok();
      return out;
    });
    for (std::uint32_t rank = 0; rank < world_size; ++rank) {
      BOOST_TEST(outs[rank].ok);
      BOOST_TEST((outs[rank].gathered == gathered));
      BOOST_TEST((outs[rank].scattered == part(sum_of_contributions(world_size, all), rank, kPart)));
      std::vector<float> exchanged;
      for (std::uint32_t peer = 0; peer < world_size; ++peer) {
        append(exchanged, part(contribution(peer, all), rank, kPart));
      }
      BOOST_TEST((outs[rank].exchanged == exchanged));
      BOOST_TEST((outs[rank].at_root == (rank == root ? gathered : std::vector<float>())));
    }
  }
}

BOOST_AUTO_TEST_CASE(operations_in_a_row_do_not_mix) {
  auto group = make_in_process_group(4, {.split_above_floats = 8});
  const auto wrong = on_every_rank(group, [](Communicator& communicator) {
    int wrong = 0;
    for (std::size_t round = 0; round < 500; ++round) {
      // Both ways to sum, in turn, with numbers that name the round.
      std::vector<float> data(round % 3 == 0 ? 21 : 5, float(round + communicator.rank()));
      if (!communicator.all_reduce(data).ok()) return -1;
      for (const float value : data) wrong += value != float(4 * round + 6);
      std::vector<float> all(4);
      const float mine = float(round * 10 + communicator.rank());
      if (!communicator.all_gather({&mine, 1}, all).ok()) return -1;
      for (std::size_t peer = 0; peer < 4; ++peer) wrong += all[peer] != float(round * 10 + peer);
    }
    return wrong;
  });
  BOOST_TEST(wrong == std::vector<int>(4, 0), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_rank_that_never_comes_is_named_when_the_deadline_has_passed) {
  auto group = make_in_process_group(3, {.timeout = 50ms});
  const auto errors = on_every_rank(group, [](Communicator& communicator) {
    std::vector<float> data(4);
    return communicator.rank() == 1 ? Result<void>() : communicator.all_reduce(data);
  });
  for (const std::size_t rank : {0, 2}) {
    BOOST_REQUIRE(!errors[rank].ok());
    BOOST_CHECK(errors[rank].error().code == ErrorCode::kDeadlineExceeded);
    BOOST_TEST(errors[rank].error().message.find("rank 1 of 3") != std::string::npos);
  }
  // Too late: the others have given up, and it must not wait for them.
  std::vector<float> data(4);
  const auto late = group[1]->all_reduce(data);
  BOOST_REQUIRE(!late.ok());
  BOOST_CHECK(late.error().code == ErrorCode::kDeadlineExceeded);
}

BOOST_AUTO_TEST_CASE(abort_wakes_those_who_wait_and_refuses_those_who_come_later) {
  auto group = make_in_process_group(3);
  std::latch started(2);
  Result<void> waiting[2];
  {
    std::vector<std::jthread> threads;
    for (const std::size_t rank : {0, 1}) {
      threads.emplace_back([&, rank] {
        std::vector<float> data(4);
        started.count_down();
        waiting[rank] = group[rank]->all_reduce(data);
      });
    }
    started.wait();
    group[2]->abort("the replica is given up");
  }
  std::vector<float> data(4);
  for (const auto& result : {waiting[0], waiting[1], group[2]->all_reduce(data)}) {
    BOOST_REQUIRE(!result.ok());
    BOOST_CHECK(result.error().code == ErrorCode::kCancelled);
    BOOST_TEST(result.error().message.find("the replica is given up") != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(a_rank_that_leaves_makes_the_others_unavailable) {
  auto group = make_in_process_group(2);
  group[1].reset();
  std::vector<float> data(4);
  const auto result = group[0]->all_reduce(data);
  BOOST_REQUIRE(!result.ok());
  BOOST_CHECK(result.error().code == ErrorCode::kUnavailable);
  BOOST_TEST(result.error().message.find("rank 1") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_rank_may_leave_as_soon_as_its_own_part_is_done) {
  for (int round = 0; round < 200; ++round) {
    auto group = make_in_process_group(3);
    const auto sums = on_every_rank(group, [&](Communicator& communicator) {
      const std::uint32_t rank = communicator.rank();
      std::vector<float> data = {float(rank + 1)};
      const bool ok = communicator.all_reduce(data).ok();
      group[rank].reset();
      return ok ? data[0] : -1.0f;
    });
    BOOST_REQUIRE(sums == (std::vector<float>{6, 6, 6}));
  }
}

BOOST_AUTO_TEST_CASE(ranks_that_disagree_about_the_operation_are_told_so) {
  auto group = make_in_process_group(2);
  const auto results = on_every_rank(group, [](Communicator& communicator) {
    std::vector<float> data(communicator.rank() == 0 ? 4 : 6);
    return communicator.all_reduce(data);
  });
  for (const auto& result : results) {
    BOOST_REQUIRE(!result.ok());
    BOOST_CHECK(result.error().code == ErrorCode::kInternal);
    BOOST_TEST(result.error().message.find("all_reduce of 4") != std::string::npos);
    BOOST_TEST(result.error().message.find("all_reduce of 6") != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(a_group_of_one_copies_until_it_is_aborted) {
  const auto solo = make_solo_communicator();
  const std::vector<float> in = {1, 2, 3};
  std::vector<float> out(3);
  BOOST_TEST(solo->all_gather(in, out).ok());
  BOOST_TEST((out == in));
  BOOST_TEST(solo->all_reduce(out).ok());
  BOOST_TEST((out == in));
  BOOST_TEST(solo->world_size() == 1u);
  solo->abort("enough");
  BOOST_CHECK(solo->all_reduce(out).error().code == ErrorCode::kCancelled);
}

BOOST_AUTO_TEST_CASE(a_sum_may_end_in_its_own_first_part) {
  std::vector<float> first = contribution(0, 5000);
  const auto second = contribution(1, 5000);
  const std::span<const float> parts[] = {first, second};
  sum_in_rank_order(parts, first);
  BOOST_TEST((first == sum_of_contributions(2, 5000)));
}

BOOST_AUTO_TEST_SUITE_END()
