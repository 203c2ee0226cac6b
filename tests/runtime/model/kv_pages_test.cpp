#include "runtime/model/kv_pages.h"

#include <boost/test/unit_test.hpp>
#include <cstring>

namespace troupe::model {
namespace {

constexpr std::uint32_t kBlocks = 5, kSwapBlocks = 3, kBlockSize = 4;

// Three layers of two heads.
Result<KvPages> pages_of(kernels::DType dtype) {
  ModelConfig config;
  config.vocab_size = 101;
  config.hidden_size = 24;
  config.intermediate_size = 50;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 6;
  config.sliding_windows.assign(3, 0);
  return KvPages::create(config, {0, 3, 3, 0, 1}, kBlocks, kBlockSize, dtype, kSwapBlocks);
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
  for (const kernels::DType dtype :
       {kernels::DType::kF32, kernels::DType::kF16, kernels::DType::kBF16, kernels::DType::kI8}) {
    auto pages = pages_of(dtype);
    BOOST_REQUIRE(pages.ok());
    for (std::uint32_t block = 0; block < kBlocks; ++block) {
      fill(*pages, block, static_cast<std::uint8_t>(10 * block + 1));
      BOOST_REQUIRE(holds(*pages, block, static_cast<std::uint8_t>(10 * block + 1)));
    }
    pages->copy(std::vector<BlockCopy>{{4, 0}});
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
    pages->copy(std::vector<BlockCopy>{{1, last}, {2, kBlocks}, {3, 1}, {kBlocks, 3}, {last, 2}});
    BOOST_TEST(holds(*pages, 1, 3));
    BOOST_TEST(holds(*pages, 3, 2));
    BOOST_TEST(holds(*pages, 2, 1));
    BOOST_TEST(holds(*pages, 0, 0));
    BOOST_TEST(holds(*pages, 4, 4));
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model
