#include "kernels/cuda/embed.h"

#include <boost/test/unit_test.hpp>

#include "kernels/cpu/reference.h"
#include "kernels/quant.h"
#include "tests/kernels/cuda/devices.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(embed_on_gpus)

// A table of a type: quantised where we have a way to, else random blocks whose scales are small numbers.
struct Table {
  Table(DType dtype, std::size_t rows, std::size_t cols, Random& random) : view{nullptr, dtype, rows, cols, cols} {
    bytes.resize(matrix_bytes(dtype, rows, cols));
    auto values = random.normals(rows * cols);
    if (dtype == DType::kInt8) {
      scales.resize(rows);
      quantize_int8({values.data(), rows, cols}, bytes.data(), scales);
    } else if (dtype == DType::kInt4) {
      quantize_int4({values.data(), rows, cols}, bytes.data());
    } else if (is_block_format(dtype)) {
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.pick(0, 255));
      const std::size_t scale_at = dtype == DType::kQ6_K ? offsetof(BlockQ6_K, d) : 0;
      for (std::size_t block = 0; block < bytes.size(); block += block_bytes(dtype)) {
        store_from_f32(random.normal(), bytes.data() + block + scale_at, DType::kF16, 0);
        if (dtype == DType::kQ4_K || dtype == DType::kQ5_K) {
          store_from_f32(random.normal(), bytes.data() + block + offsetof(BlockQ4_K, dmin), DType::kF16, 0);
        }
      }
    } else {
      for (std::size_t i = 0; i < values.size(); ++i) store_from_f32(values[i], bytes.data(), dtype, i);
    }
    view.data = bytes.data();
    view.scales = scales.empty() ? nullptr : scales.data();
  }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  std::vector<std::byte> bytes;
  std::vector<float> scales;
  WeightView view;
};

BOOST_AUTO_TEST_CASE(rows_of_every_type_have_the_same_bits_as_on_the_cpu) {
  const auto reference = make_reference_kernels();
  for (const auto& gpu : gpus_to_test()) {
    Random random(7);
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ5_0,
                              DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kInt8, DType::kInt4}) {
      const std::size_t grain = is_block_format(dtype) ? block_elements(dtype) : 1;
      for (const std::size_t cols : {grain * 2, grain * 5, is_panel_format(dtype) ? std::size_t{197} : grain * 3}) {
        const Table table(dtype, 37, cols, random);
        const std::uint32_t first_row = 100;
        // Some that the table does not hold, at both ends.
        const std::vector<std::uint32_t> tokens = {100, 136, 99, 137, 0, 0xffffffff, 117, 117, 115, 132};
        Strided expected(tokens.size(), cols, 3), out(tokens.size(), cols, 3);
        reference->begin_step({.tokens = tokens});
        reference->embed(table.view, first_row, expected.view());
        const OnGpu<std::byte> there(*gpu, table.bytes);
        const OnGpu<float> scales(*gpu, table.scales);
        const OnGpu<std::uint32_t> tokens_there(*gpu, tokens);
        const MatrixOnGpu out_there(*gpu, out.view());
        EmbedArgs args = {tokens_there.data(), table.view, first_row, out_there.view()};
        args.table.data = there.data();
        args.table.scales = scales.data();
        TROUPE_GPU_CALL(embed, gpu->stream(), args);
        out_there.fetch();
        BOOST_TEST_CONTEXT(gpu->name() << " type " << int(dtype) << " cols " << cols) {
          for (std::size_t row = 0; row < tokens.size(); ++row) BOOST_REQUIRE(out.row(row) == expected.row(row));
          BOOST_REQUIRE(out.gaps_untouched());
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
