#include "kernels/cuda/nvml.h"

#include <boost/test/unit_test.hpp>

namespace troupe::kernels {

BOOST_AUTO_TEST_SUITE(nvml)

BOOST_AUTO_TEST_CASE(gpus_are_named_as_nvidia_smi_names_them) {
  GpuUuid uuid{};
  for (std::size_t i = 0; i < uuid.size(); ++i) uuid[i] = static_cast<unsigned char>(0x10 * i + 15 - i);
  BOOST_TEST(nvml_name(uuid) == "GPU-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
}

BOOST_AUTO_TEST_CASE(of_a_gpu_that_nobody_knows_nothing_is_told) {
  BOOST_TEST(!free_gpu_bytes(GpuUuid{}, 1 << 30).has_value());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::kernels
