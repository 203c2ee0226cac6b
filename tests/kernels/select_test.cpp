#include "kernels/select.h"

#include <boost/test/unit_test.hpp>
#include <cstdlib>

using namespace troupe;
using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(selection)

constexpr CpuFeatures kPlain{};
constexpr CpuFeatures kAvx2Machine{.avx2 = true};
constexpr CpuFeatures kAvx512Machine{.avx2 = true, .avx512 = true};
constexpr CpuFeatures kBf16Machine{.avx2 = true, .avx512 = true, .avx512_bf16 = true};
constexpr CpuFeatures kAmxMachine{.avx2 = true, .avx512 = true, .amx = true};

BOOST_AUTO_TEST_CASE(the_best_that_the_machine_can_run_is_chosen) {
  BOOST_CHECK(select_cpu_implementation(kPlain, "").value() == CpuImplementation::kReference);
  BOOST_CHECK(select_cpu_implementation(kAvx2Machine, "").value() == CpuImplementation::kAvx2);
  BOOST_CHECK(select_cpu_implementation(kAvx512Machine, "").value() == CpuImplementation::kAvx512);
  BOOST_CHECK(select_cpu_implementation(kAmxMachine, "").value() == CpuImplementation::kAmx);
}

BOOST_AUTO_TEST_CASE(a_lesser_one_can_be_asked_for) {
  BOOST_CHECK(select_cpu_implementation(kAvx512Machine, "avx2").value() == CpuImplementation::kAvx2);
  BOOST_CHECK(select_cpu_implementation(kAvx512Machine, "reference").value() == CpuImplementation::kReference);
}

BOOST_AUTO_TEST_CASE(one_that_rounds_inputs_must_be_asked_for) {
  BOOST_CHECK(select_cpu_implementation(kBf16Machine, "").value() == CpuImplementation::kAvx512);
  BOOST_CHECK(select_cpu_implementation(kBf16Machine, "avx512_bf16").value() == CpuImplementation::kAvx512Bf16);
  const auto lacking = select_cpu_implementation(kAvx512Machine, "avx512_bf16");
  BOOST_CHECK(lacking.error().code == ErrorCode::kUnsupported);
}

BOOST_AUTO_TEST_CASE(a_wrong_name_is_answered_with_the_names_that_work_here) {
  const auto unknown = select_cpu_implementation(kAvx2Machine, "sse");
  BOOST_CHECK(unknown.error().code == ErrorCode::kInvalidArgument);
  BOOST_TEST(unknown.error().message.find("avx2, reference") != std::string::npos);
  const auto lacking = select_cpu_implementation(kPlain, "avx512");
  BOOST_CHECK(lacking.error().code == ErrorCode::kUnsupported);
  BOOST_TEST(lacking.error().message.find("it can run reference") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(the_environment_decides_where_the_options_do_not) {
  setenv("TROUPE_KERNELS", "reference", 1);
  const auto from_environment = make_cpu_kernels({});
  setenv("TROUPE_KERNELS", "nonsense", 1);
  const auto refused = make_cpu_kernels({});
  const auto from_options = make_cpu_kernels({.implementation = "reference"});
  unsetenv("TROUPE_KERNELS");
  BOOST_TEST(from_environment.value()->name() == "reference");
  BOOST_TEST(refused.error().param == "TROUPE_KERNELS");
  BOOST_TEST(from_options.value()->name() == "reference");
}

BOOST_AUTO_TEST_CASE(a_core_that_does_not_exist_is_refused_by_number) {
  const auto refused = make_cpu_kernels({.cores = {0, 100'000}, .implementation = {}});
  BOOST_TEST(refused.error().message.find("100000") != std::string::npos);
  BOOST_TEST(!make_cpu_kernels({.cores = {-1}, .implementation = {}}).ok());
}

BOOST_AUTO_TEST_CASE(a_library_that_gpus_cannot_use_is_refused_with_what_to_change) {
  ::setenv("TROUPE_GPU", "emulated", 1);
  const auto refusal_of = [](const char* library) {
    ::setenv("TROUPE_GPU_LIBRARY", library, 1);
    const auto made = make_kernels({.cores = {}, .gpu = 0});
    BOOST_REQUIRE(!made.ok());
    BOOST_TEST(made.error().param == "TROUPE_GPU_LIBRARY");
    return made.error().message;
  };
  BOOST_TEST(refusal_of("cublas").find("it may be cublaslt") != std::string::npos);
  for (const char* library : {"cublaslt", "cublaslt_fp8"}) {
    BOOST_TEST(refusal_of(library).find("needs a real GPU") != std::string::npos);
  }
  ::setenv("TROUPE_GPU_LIBRARY", "", 1);
  BOOST_TEST(make_kernels({.cores = {}, .gpu = 0}).ok());
  ::unsetenv("TROUPE_GPU_LIBRARY");
  ::unsetenv("TROUPE_GPU");
}

BOOST_AUTO_TEST_SUITE_END()
