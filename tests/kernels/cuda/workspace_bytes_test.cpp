#include "kernels/cuda/workspace_bytes.h"

#include <boost/test/unit_test.hpp>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/kernels/implementations.h"

namespace troupe::kernels {

BOOST_AUTO_TEST_SUITE(gpu_workspaces)

// Products, keys and values on their way, and tokens that are drawn: what the kernels then hold is what was counted,
// and little beside it.
BOOST_AUTO_TEST_CASE(kernels_take_what_was_counted) {
  constexpr std::size_t kRows = 24, kCols = 512, kHeadDim = 64, kVocabulary = 50'000;
  const auto kernels = make_cuda_kernels(open_emulated_gpu()).value();
  DeviceMemory& memory = kernels->memory();
  Random random(1);
  const std::uint64_t before = memory.use().bytes;
  std::vector<MatrixF32> rooms;
  const auto room = [&](std::size_t rows, std::size_t cols) {
    auto* const data = static_cast<float*>(memory.allocate(rows * cols * sizeof(float), "a test").value());
    return rooms.emplace_back(data, rows, cols);
  };
  const MatrixF32 in = room(kRows, kCols), queries = room(kRows, kHeadDim), logits = room(kRows, kVocabulary);
  const MatrixF32 keys = room(32, kHeadDim), values = room(32, kHeadDim), frequencies = room(1, kHeadDim / 2);
  const Stored stored(DType::kF32, kHeadDim, kCols, 0, random);
  const auto weight = kernels->pack(stored.view()).value();
  const std::uint64_t own = memory.use().bytes - before;

  const std::vector<std::uint32_t> positions(kRows, 0), slots(kRows, 0);
  kernels->begin_step({.tokens = positions, .positions = positions, .slots = slots});
  const LinearWeight linear = {weight.get()};
  const PagedKv kv = {.keys = keys.data,
                      .values = values.data,
                      .dtype = DType::kF32,
                      .num_blocks = 1,
                      .block_size = 32,
                      .num_kv_heads = 1,
                      .head_dim = kHeadDim};
  kernels->project_qkv(in, {.query = linear, .key = linear, .value = linear},
                       {.inverse_frequencies = {frequencies.data, kHeadDim / 2}}, queries, kv);
  const std::vector<SamplingRow> rows(kRows);
  kernels->sampler()->begin({.rows = rows});
  kernels->sampler()->draw(0, logits);
  kernels->sampler()->send();
  BOOST_REQUIRE(memory.synchronize().ok());
  BOOST_REQUIRE(kernels->sampler()->take().ok());

  const std::uint64_t taken = memory.use().bytes - before - own;
  const std::uint64_t counted = gpu_workspace_bytes(
      {.rows = kRows, .most_cols = kCols, .kv_width = kHeadDim, .drawn_rows = kRows, .vocabulary = kVocabulary});
  BOOST_TEST(taken >= counted);
  BOOST_TEST(taken < counted + 64 * 1024);
  for (const MatrixF32& of : rooms) memory.release(of.data, of.rows * of.cols * sizeof(float));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::kernels
