#include "runtime/model/kv_pages.h"

#include <boost/test/unit_test.hpp>
#include <cstring>

#include "tests/runtime/model/guarded_kernels.h"
#include "tests/runtime/model/late_memory.h"

namespace troupe::model {
namespace {

constexpr std::uint32_t kBlocks = 5, kSwapBlocks = 3, kBlockSize = 4;

// Three layers of two heads.
Result<KvPages> pages_of(kernels::DType dtype, kernels::DeviceMemory& memory = kernels::host_memory()) {
  ModelConfig config;
  config.vocab_size = 101;
  config.hidden_size = 24;
  config.intermediate_size = 50;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 6;
  config.sliding_windows.assign(3, 0);
  return KvPages::create(config, {0, 3, 3, 0, 1}, kBlocks, kBlockSize, dtype, kSwapBlocks, memory);
}

// All bytes of a block, of every layer, through what kernels see.
template <class Visit>
void visit(const KvPages& pages, std::uint32_t block, const Visit& bytes) {
  for (std::uint32_t layer = 0; layer < 3; ++layer) {
    const kernels::PagedKv& kv = pages.layer(layer);
    const std::size_t size = kv.num_kv_heads * kv.head_dim * kv.block_size * kernels::size_of(kv.dtype);
    bytes(static_cast<std::byte*>(kv.keys) + block * size, size);
    bytes(static_cast<std::byte*>(kv.values) + block * size, size);
    if (kv.key_scales == nullptr) continue;
    const std::size_t scales = kv.num_kv_heads * kv.block_size;
    bytes(reinterpret_cast<std::byte*>(kv.key_scales + block * scales), scales * sizeof(float));
    bytes(reinterpret_cast<std::byte*>(kv.value_scales + block * scales), scales * sizeof(float));
  }
}

void fill(const KvPages& pages, std::uint32_t block, std::uint8_t first) {
  visit(pages, block, [&](std::byte* data, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(first++);
  });
}

bool holds(const KvPages& pages, std::uint32_t block, std::uint8_t first) {
  bool same = true;
  visit(pages, block, [&](std::byte* data, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) same = same && data[i] == static_cast<std::byte>(first++);
  });
  return same;
}

BOOST_AUTO_TEST_SUITE(kv_pages)

BOOST_AUTO_TEST_CASE(a_copied_block_is_the_same_in_every_layer_and_no_other_changes) {
  for (const kernels::DType dtype : {kernels::DType::kF32, kernels::DType::kF16, kernels::DType::kBF16,
                                     kernels::DType::kI8, kernels::DType::kE4M3}) {
    auto pages = pages_of(dtype);
    BOOST_REQUIRE(pages.ok());
    for (std::uint32_t block = 0; block < kBlocks; ++block) {
      fill(*pages, block, static_cast<std::uint8_t>(10 * block + 1));
      BOOST_REQUIRE(holds(*pages, block, static_cast<std::uint8_t>(10 * block + 1)));
    }
    const auto copied = pages->copy(std::vector<BlockCopy>{{4, 0}});
    BOOST_REQUIRE(copied.ok());
    BOOST_TEST(holds(*pages, 0, 41));
    BOOST_TEST(holds(*pages, 1, 11));
    BOOST_TEST(holds(*pages, 4, 41));
  }
}

BOOST_AUTO_TEST_CASE(blocks_beside_the_pages_give_back_what_was_copied_there_in_the_order_of_the_copies) {
  for (const kernels::DType dtype : {kernels::DType::kF32, kernels::DType::kI8}) {
    auto pages = pages_of(dtype);
    BOOST_REQUIRE(pages.ok());
    for (std::uint32_t block = 0; block < kBlocks; ++block) fill(*pages, block, static_cast<std::uint8_t>(block));
    const std::uint32_t last = kBlocks + kSwapBlocks - 1;
    const auto copied = pages->copy(std::vector<BlockCopy>{{1, last}, {2, kBlocks}, {3, 1}, {kBlocks, 3}, {last, 2}});
    BOOST_REQUIRE(copied.ok());
    BOOST_TEST(holds(*pages, 1, 3));
    BOOST_TEST(holds(*pages, 3, 2));
    BOOST_TEST(holds(*pages, 2, 1));
    BOOST_TEST(holds(*pages, 0, 0));
    BOOST_TEST(holds(*pages, 4, 4));
  }
}

BOOST_AUTO_TEST_CASE(blocks_of_a_device_come_back_from_the_host) {
  const auto kernels = testing::make_guarded_kernels();
  kernels::DeviceMemory& memory = kernels->memory();
  auto pages = pages_of(kernels::DType::kF32, memory);
  BOOST_REQUIRE(pages.ok());
  const kernels::PagedKv& kv = pages->layer(1);
  const std::size_t floats = kv.num_kv_heads * kv.head_dim * kv.block_size;
  std::vector<float> written(floats), read(floats);
  for (std::size_t i = 0; i < floats; ++i) written[i] = static_cast<float>(i);
  auto* const keys = static_cast<float*>(kv.keys);
  memory.upload(keys + 2 * floats, written.data(), floats * sizeof(float));
  BOOST_REQUIRE(pages->copy(std::vector<BlockCopy>{{2, 3}, {3, kBlocks + 1}, {0, 3}, {kBlocks + 1, kBlocks}}).ok());
  BOOST_REQUIRE(pages->copy(std::vector<BlockCopy>{{kBlocks, 4}}).ok());
  BOOST_REQUIRE(memory.download(read.data(), keys + 4 * floats, floats * sizeof(float)).ok());
  BOOST_TEST(read == written, boost::test_tools::per_element());
  BOOST_REQUIRE(memory.download(read.data(), keys + 3 * floats, floats * sizeof(float)).ok());
  BOOST_TEST(read == std::vector<float>(floats), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(many_blocks_leave_a_device_and_come_back_with_one_wait) {
  testing::LateMemory memory;
  auto pages = pages_of(kernels::DType::kI8, memory);
  BOOST_REQUIRE(pages.ok());
  for (std::uint32_t block = 0; block < kBlocks; ++block) fill(*pages, block, static_cast<std::uint8_t>(40 * block));
  // One comes back within the same list, into a place that another one leaves.
  BOOST_REQUIRE(pages->copy(std::vector<BlockCopy>{{1, kBlocks}, {2, kBlocks + 1}, {0, 1}, {kBlocks, 2}}).ok());
  BOOST_TEST(memory.waits == 1);
  BOOST_TEST(holds(*pages, 1, 0));
  BOOST_TEST(holds(*pages, 2, 40));
  // What moves beside the pages is there first.
  BOOST_REQUIRE(pages->copy(std::vector<BlockCopy>{{4, kBlocks}, {kBlocks, kBlocks + 2}, {kBlocks + 2, 0}}).ok());
  BOOST_TEST(memory.waits == 3);
  BOOST_TEST(holds(*pages, 0, 160));
  BOOST_REQUIRE(pages->copy({}).ok());
  BOOST_TEST(memory.waits == 3);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model
