#include "runtime/model/staged_communicator.h"

#include <boost/test/unit_test.hpp>
#include <thread>
#include <vector>

#include "runtime/collective/in_process.h"
#include "runtime/model/arenas.h"
#include "tests/runtime/model/guarded_kernels.h"

namespace troupe::model::testing {
namespace {

constexpr std::uint32_t kRanks = 3;

// Floats in the memory of a device.
class Tensor {
 public:
  Tensor(kernels::DeviceMemory& memory, const std::vector<float>& values)
      : memory_(memory), arena_(Arena::create(Arena::rounded(values.size() * 4), "a test", memory).value()) {
    data_ = {static_cast<float*>(arena_.take(values.size() * 4)), values.size()};
    memory.upload(data_.data(), values.data(), data_.size_bytes());
  }
  std::span<float> span() const { return data_; }
  std::vector<float> values() const {
    std::vector<float> copy(data_.size());
    BOOST_REQUIRE(memory_.download(copy.data(), data_.data(), data_.size_bytes()).ok());
    return copy;
  }

 private:
  kernels::DeviceMemory& memory_;
  Arena arena_;
  std::span<float> data_;
};

// Calls work(rank, memory, group) on a thread for each rank, with a staged group over an in-process one.
template <class Work>
void on_every_rank(const Work& work) {
  auto groups = collective::make_in_process_group(kRanks);
  std::vector<std::jthread> threads;
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto kernels = make_guarded_kernels();
      const auto group = make_staged_communicator(std::move(groups[rank]), kernels->memory());
      BOOST_REQUIRE(group->rank() == rank && group->world_size() == kRanks);
      work(rank, kernels->memory(), *group);
    });
  }
}

BOOST_AUTO_TEST_SUITE(staged_communicator)

BOOST_AUTO_TEST_CASE(tensors_on_a_device_are_exchanged_as_on_the_host) {
  std::vector<std::vector<float>> results[5];
  for (auto& result : results) result.resize(kRanks);
  on_every_rank([&](std::uint32_t rank, kernels::DeviceMemory& memory, collective::Communicator& group) {
    const auto base = static_cast<float>(10 * rank);
    const Tensor sum(memory, {base, base + 1});
    BOOST_REQUIRE(group.all_reduce(sum.span()).ok());
    results[0][rank] = sum.values();
    const Tensor one(memory, {base, base + 1}), all(memory, std::vector<float>(kRanks * 2));
    BOOST_REQUIRE(group.all_gather(one.span(), all.span()).ok());
    results[1][rank] = all.values();
    const Tensor parts(memory, {base, base + 1, base + 2}), part(memory, {0});
    BOOST_REQUIRE(group.reduce_scatter(parts.span(), part.span()).ok());
    results[2][rank] = part.values();
    const Tensor exchanged(memory, std::vector<float>(3));
    BOOST_REQUIRE(group.all_to_all(parts.span(), exchanged.span()).ok());
    results[3][rank] = exchanged.values();
    const Tensor gathered(memory, std::vector<float>(rank == 1 ? kRanks * 2 : 0));
    BOOST_REQUIRE(group.gather(one.span(), gathered.span(), 1).ok());
    results[4][rank] = gathered.values();
  });
  const std::vector<float> everything{0, 1, 10, 11, 20, 21};
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
    const auto r = static_cast<float>(rank);
    BOOST_TEST(results[0][rank] == std::vector<float>({30, 33}), boost::test_tools::per_element());
    BOOST_TEST(results[1][rank] == everything, boost::test_tools::per_element());
    BOOST_TEST(results[2][rank] == std::vector<float>({30 + 3 * r}), boost::test_tools::per_element());
    BOOST_TEST(results[3][rank] == std::vector<float>({r, 10 + r, 20 + r}), boost::test_tools::per_element());
  }
  BOOST_TEST(results[4][1] == everything, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_aborted_group_is_cancelled_on_every_rank) {
  std::vector<ErrorCode> codes(kRanks, ErrorCode::kInternal);
  on_every_rank([&](std::uint32_t rank, kernels::DeviceMemory& memory, collective::Communicator& group) {
    const Tensor tensor(memory, {1});
    if (rank == 2) group.abort("a test");
    const auto result = group.all_reduce(tensor.span());
    codes[rank] = result.ok() ? ErrorCode::kInternal : result.error().code;
  });
  for (const ErrorCode code : codes) BOOST_TEST((code == ErrorCode::kCancelled || code == ErrorCode::kUnavailable));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
