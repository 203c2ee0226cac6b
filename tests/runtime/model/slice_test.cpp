#include "runtime/model/slice.h"

#include <boost/test/unit_test.hpp>
#include <map>

#include "runtime/model/kv_pages.h"
#include "runtime/model/scratch.h"

namespace troupe::model {
namespace {

ModelConfig grouped_config() {
  ModelConfig config;
  config.vocab_size = 101;
  config.hidden_size = 24;
  config.intermediate_size = 50;
  config.num_layers = 5;
  config.num_heads = 12;
  config.num_kv_heads = 3;
  config.head_dim = 6;
  config.qkv_bias = true;
  config.sliding_windows.assign(5, 0);
  config.dtype = kernels::DType::kBF16;
  return config;
}

BOOST_AUTO_TEST_SUITE(slice)

BOOST_AUTO_TEST_CASE(parts_cover_everything_once_and_differ_by_at_most_one) {
  for (std::uint64_t total = 0; total < 30; ++total) {
    for (std::uint32_t world_size = 1; world_size < 9; ++world_size) {
      std::uint64_t next = 0;
      for (std::uint32_t rank = 0; rank < world_size; ++rank) {
        const Range part = even_part(total, rank, world_size);
        BOOST_TEST(part.first == next);
        BOOST_TEST(part.size() >= total / world_size);
        BOOST_TEST(part.size() <= total / world_size + 1);
        next = part.last;
      }
      BOOST_TEST(next == total);
    }
  }
}

BOOST_AUTO_TEST_CASE(heads_stay_with_their_kv_head) {
  const ModelConfig config = grouped_config();
  for (const std::uint32_t world_size : {1u, 2u, 3u, 6u, 12u}) {
    BOOST_REQUIRE(check_slice(config, {0, 5, 5, 0, world_size}).ok());
    std::uint64_t next = 0;
    for (std::uint32_t rank = 0; rank < world_size; ++rank) {
      const RankShape shape = rank_shape(config, {0, 5, 5, rank, world_size});
      BOOST_TEST(shape.heads.first == next);
      next = shape.heads.last;
      for (std::uint64_t head = shape.heads.first; head < shape.heads.last; ++head) {
        BOOST_TEST(head / 4 >= shape.kv_heads.first);
        BOOST_TEST(head / 4 < shape.kv_heads.last);
      }
      // Kernels take it that every KV head of a rank serves equally many of its heads.
      BOOST_TEST(shape.heads.size() % shape.kv_heads.size() == 0u);
    }
    BOOST_TEST(next == config.num_heads);
  }
}

BOOST_AUTO_TEST_CASE(a_split_that_does_not_fit_names_the_key) {
  const ModelConfig config = grouped_config();
  const auto key_of = [&](const Slice& slice) {
    const auto result = check_slice(config, slice);
    BOOST_REQUIRE(!result.ok());
    BOOST_TEST(result.error().message.find(result.error().param) != std::string::npos);
    return result.error().param;
  };
  BOOST_TEST(key_of({0, 5, 5, 0, 4}) == "num_key_value_heads");
  BOOST_TEST(key_of({0, 5, 5, 0, 9}) == "num_key_value_heads");
  BOOST_TEST(key_of({0, 5, 5, 2, 2}) == "rank");
  BOOST_TEST(key_of({0, 6, 6, 0, 1}) == "num_hidden_layers");
  BOOST_TEST(key_of({3, 3, 5, 0, 1}) == "num_hidden_layers");
  BOOST_TEST(key_of({0, 6, 5, 0, 1}) == "num_hidden_layers");
  ModelConfig narrow = config;
  narrow.intermediate_size = 1;
  BOOST_TEST(check_slice(narrow, {0, 5, 5, 0, 2}).error().param == "intermediate_size");
}

BOOST_AUTO_TEST_CASE(the_slices_of_all_shards_make_up_the_checkpoint) {
  const ModelConfig config = grouped_config();
  std::map<std::string, std::uint64_t> owned;
  std::map<std::string, std::uint64_t> whole;
  for (const auto& [first, last] : {std::pair{0u, 2u}, std::pair{2u, 5u}}) {
    for (std::uint32_t rank = 0; rank < 3; ++rank) {
      for (const TensorSlice& tensor : tensor_slices(config, {first, last, 5, rank, 3})) {
        owned[tensor.name] += tensor.elements();
        const bool replicated = tensor.name.find("norm") != std::string::npos;
        whole[tensor.name] = tensor.rows * tensor.cols * (replicated ? 3 : 1);
      }
    }
  }
  BOOST_TEST(owned.size() == 5 * 12u + 3);
  BOOST_TEST((owned == whole));
}

BOOST_AUTO_TEST_CASE(bytes_are_counted_from_shapes) {
  ModelConfig config = grouped_config();
  const std::uint64_t layer = 2 * 24 + 72 * 24 + 72 + 2 * (18 * 24 + 18) + 24 * 72 + 3 * 50 * 24;
  const std::uint64_t whole = 5 * layer + 24 + 2 * 101 * 24;
  BOOST_TEST(weight_bytes(config, {0, 5, 5, 0, 1}) == 2 * whole);
  BOOST_TEST(weight_bytes(config, {1, 3, 5, 0, 1}) == 2 * 2 * layer);
  BOOST_TEST(bytes_per_block(config, {0, 5, 5, 0, 1}, 16) == 2 * 5 * 16 * 18 * 4u);
  BOOST_TEST(bytes_per_block(config, {1, 3, 5, 1, 3}, 16, kernels::DType::kF16) == 2 * 2 * 16 * 6 * 2u);
}

BOOST_AUTO_TEST_CASE(scratch_and_pages_take_what_was_foretold) {
  const ModelConfig config = grouped_config();
  for (const std::uint32_t rank : {0u, 1u}) {
    const Slice slice{2, 5, 5, rank, 2};
    for (const bool on_host : {true, false}) {
      const StepSize size{17, 3, on_host};
      const ScratchBytes bytes = scratch_bytes(config, slice, size);
      auto device = Arena::create(bytes.device, "scratch");
      auto host = Arena::create(bytes.host, "scratch");
      BOOST_REQUIRE(device.ok() && host.ok());
      const Scratch scratch = Scratch::take(*device, *host, config, slice, size);
      BOOST_TEST(device->used() == device->capacity());
      BOOST_TEST(host->used() == host->capacity());
      BOOST_TEST(scratch.logits.rows == (rank == 0 ? 3u : 0u));
      BOOST_TEST(reinterpret_cast<std::uintptr_t>(scratch.gated.data) % Arena::kAlignment == 0u);
    }
    const auto pages = KvPages::create(config, slice, 64, 16);
    BOOST_REQUIRE(pages.ok());
    BOOST_TEST(pages->bytes() == 64 * bytes_per_block(config, slice, 16));
    for (const auto dtype : {kernels::DType::kI8, kernels::DType::kE4M3}) {
      const auto narrow = KvPages::create(config, slice, 64, 16, dtype);
      BOOST_REQUIRE(narrow.ok());
      BOOST_TEST(narrow->bytes() == 64 * bytes_per_block(config, slice, 16, dtype));
    }
  }
}

BOOST_AUTO_TEST_CASE(pages_that_cannot_be_had_are_an_error_that_names_kv_memory) {
  const ModelConfig config = grouped_config();
  const Slice slice{0, 5, 5, 0, 1};
  BOOST_TEST(KvPages::create(config, slice, 0, 16).error().param == "kv_memory");
  BOOST_TEST(KvPages::create(config, slice, 1u << 31, 16).error().param == "kv_memory");
  BOOST_TEST(KvPages::create(config, slice, 4, 0).error().param == "block_size");
  BOOST_TEST(KvPages::create(config, slice, 4, 4, kernels::DType::kI32).error().param == "kv_dtype");
  ModelConfig wide = config;
  wide.num_heads = wide.num_kv_heads = 1 << 11;
  wide.head_dim = 1 << 11;
  wide.num_layers = 1 << 12;
  const auto beside = KvPages::create(wide, {0, 1 << 12, 1 << 12, 0, 1}, 1, 16, kernels::DType::kF32, ~0u - 1);
  BOOST_REQUIRE(!beside.ok());
  BOOST_TEST(beside.error().param == "swap_memory");
  const auto pages = KvPages::create(wide, slice, 1u << 27, 16);
  BOOST_REQUIRE(!pages.ok());
  BOOST_TEST(pages.error().message.find("kv_memory") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model
