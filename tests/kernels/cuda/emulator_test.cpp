#include <unistd.h>

#include <array>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#define TROUPE_EMULATE_GPU
#include "kernels/cuda/tensor_core.h"

using namespace troupe::kernels;
using namespace troupe::kernels::emulated;

BOOST_AUTO_TEST_SUITE(emulator)

static Stream stream_of(EmulatedStream& stream) { return {&stream, true}; }

__global__ static void reverse_blocks(const int* in, int* out) {
  __shared__ int tile[256];
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x] = in[i];
  __syncthreads();
  out[i] = tile[blockDim.x - 1 - threadIdx.x];
}

BOOST_AUTO_TEST_CASE(what_a_thread_wrote_before_a_barrier_the_others_read_after_it) {
  std::vector<int> in(1024), out(1024);
  for (int i = 0; i < 1024; ++i) in[std::size_t(i)] = i * i;
  EmulatedStream stream;
  launch(stream_of(stream), 4, 256, 0, reverse_blocks, in.data(), out.data());
  BOOST_TEST(stream.error == "");
  for (std::size_t i = 0; i < 1024; ++i) BOOST_REQUIRE_EQUAL(out[i], in[i / 256 * 256 + 255 - i % 256]);
}

__global__ static void without_barrier(const int* in, int* out) {
  __shared__ int tile[64];
  tile[threadIdx.x] = in[threadIdx.x];
  out[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
}

BOOST_AUTO_TEST_CASE(a_missing_barrier_shows) {
  std::vector<int> in(64), out(128);
  for (int i = 0; i < 64; ++i) in[std::size_t(i)] = i + 1;
  EmulatedStream stream;
  launch(stream_of(stream), 2, 64, 0, without_barrier, in.data(), out.data());
  bool forwards_wrong = false, backwards_wrong = false;
  for (std::size_t i = 0; i < 64; ++i) {
    forwards_wrong |= out[i] != in[63 - i];
    backwards_wrong |= out[64 + i] != in[63 - i];
  }
  BOOST_TEST((forwards_wrong || backwards_wrong));
}

__global__ static void early_exit(int* count) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  atomicAdd(count, 1);
}

BOOST_AUTO_TEST_CASE(a_barrier_does_not_wait_for_threads_that_ended) {
  int count = 0;
  EmulatedStream stream;
  launch(stream_of(stream), 3, 64, 0, early_exit, &count);
  BOOST_TEST(stream.error == "");
  BOOST_TEST(count == 120);
}

__global__ static void reduce(const float* in, float* out, unsigned* ballots) {
  float sum = in[threadIdx.x];
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xffffffff, sum, bits);
  const unsigned ballot = __ballot_sync(0xffffffff, threadIdx.x % 3 == 0);
  if (threadIdx.x % 32 < 8) {  // a part of the warp by itself
    const float first = __shfl_sync(0xff, sum + float(threadIdx.x % 32), 3);
    if (threadIdx.x % 32 == 0) out[threadIdx.x / 32] = first;
  } else {
    const float down = __shfl_down_sync(0xffffff00, sum, 1, 8);
    if (threadIdx.x % 32 == 8) out[2 + threadIdx.x / 32] = down;
  }
  if (threadIdx.x % 32 == 0) ballots[threadIdx.x / 32] = ballot;
}

BOOST_AUTO_TEST_CASE(lanes_exchange_values_also_where_a_warp_diverges) {
  std::vector<float> in(64), out(4);
  float sums[2] = {};
  for (std::size_t i = 0; i < 64; ++i) sums[i / 32] += in[i] = float(i * 7 % 19);
  unsigned ballots[2], expected[2] = {};
  for (unsigned i = 0; i < 64; ++i) expected[i / 32] |= unsigned{i % 3 == 0} << i % 32;
  EmulatedStream stream;
  launch(stream_of(stream), 1, 64, 0, reduce, in.data(), out.data(), ballots);
  BOOST_TEST(stream.error == "");
  for (std::size_t warp = 0; warp < 2; ++warp) {
    BOOST_TEST(out[warp] == sums[warp] + 3);
    BOOST_TEST(out[2 + warp] == sums[warp]);
    BOOST_TEST(ballots[warp] == expected[warp]);
  }
}

__global__ static void diverge(int how, float* sink) {
  if (how == 0) {  // half a warp at a barrier, half of it in an exchange
    if (threadIdx.x < 16) {
      __syncthreads();
    } else {
      sink[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.0f, 1);
    }
  } else if (how == 1) {  // different operations
    if (threadIdx.x % 2 == 0) {
      __syncwarp();
    } else {
      sink[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.0f, 1);
    }
  } else if (how == 2) {  // a mask without the one who calls
    if (threadIdx.x == 5) __syncwarp(1);
  } else {  // some have left
    if (threadIdx.x < 30) return;
    __syncwarp();
  }
}

BOOST_AUTO_TEST_CASE(threads_that_wait_for_ever_are_reported_and_what_follows_is_not_run) {
  const std::string causes[] = {"waits for ever: 16 threads at a barrier, 16 at an operation", "another warp operation",
                                "leaves it out", "30 ended"};
  for (int how = 0; how < 4; ++how) {
    std::vector<float> sink(32);
    EmulatedStream stream;
    launch(stream_of(stream), 2, 32, 0, diverge, how, sink.data());
    BOOST_TEST_CONTEXT(stream.error) {
      BOOST_TEST(stream.error.find(causes[how]) != std::string::npos);
      BOOST_TEST(stream.error.find("emulator_test.cpp:") != std::string::npos);
    }
    int count = 0;
    launch(stream_of(stream), 1, 64, 0, early_exit, &count);
    BOOST_TEST(count == 0);
    EmulatedStream other;
    launch(stream_of(other), 1, 64, 0, early_exit, &count);
    BOOST_TEST(other.error == "");
    BOOST_TEST(count == 40);
  }
}

BOOST_AUTO_TEST_CASE(a_launch_that_no_gpu_takes_is_refused) {
  int count = 0;
  for (const unsigned threads : {0u, 1025u}) {
    EmulatedStream stream;
    launch(stream_of(stream), 1, threads, 0, early_exit, &count);
    BOOST_TEST(stream.error.find("1 to 1024 threads") != std::string::npos);
  }
  EmulatedStream stream;
  launch(stream_of(stream), 1, 32, 200'000, early_exit, &count);
  BOOST_TEST(stream.error.find("shared memory") != std::string::npos);
}

template <class T>
__global__ void multiply(const std::uint16_t* a, const std::uint16_t* b, float* d, bool is_bf16) {
  TROUPE_DYNAMIC_SHARED(std::uint16_t, shared);  // a (16, 16), then b (16, 8)
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) shared[i] = a[i];
  for (unsigned i = lane; i < 128; i += 32) shared[256 + i] = b[i];
  __syncwarp();
  std::uint32_t fragment[4], wide[4];
  // The matrices lie in the order of a's registers: rows 0 and 8 of the first columns, then of the others.
  ldmatrix_x4(fragment, shared + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x4_trans(wide, shared + 256 + lane % 16 * 8);
  const std::uint32_t column[2] = {wide[0], wide[1]};
  float sums[4] = {1, 2, 3, 4};
  if (is_bf16) {
    mma_m16n8k16_bf16(sums, fragment, column);
  } else {
    mma_m16n8k16_f16(sums, fragment, column);
  }
  for (unsigned i = 0; i < 4; ++i) d[(lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2] = sums[i] - float(i + 1);
}

BOOST_AUTO_TEST_CASE(matrix_loads_and_products_of_fragments_are_those_of_plain_loops) {
  std::mt19937 random(1);
  for (const bool is_bf16 : {true, false}) {
    std::vector<std::uint16_t> a(256), b(128);
    const auto number = [&] {
      const float value = float(int(random() % 65) - 32) / 8;
      return is_bf16 ? bf16_of_f32(value) : f16_of_f32(value);
    };
    const auto value = [&](std::uint16_t bits) { return is_bf16 ? f32_of_bf16(bits) : f32_of_f16(bits); };
    for (auto& element : a) element = number();
    for (auto& element : b) element = number();
    std::vector<float> d(128);
    EmulatedStream stream;
    launch(stream_of(stream), 1, 32, 768, multiply<float>, a.data(), b.data(), d.data(), is_bf16);
    BOOST_TEST(stream.error == "");
    for (std::size_t row = 0; row < 16; ++row) {
      for (std::size_t col = 0; col < 8; ++col) {
        float sum = 0;
        for (std::size_t k = 0; k < 16; ++k) sum += value(a[row * 16 + k]) * value(b[k * 8 + col]);
        BOOST_REQUIRE_EQUAL(d[row * 8 + col], sum);
      }
    }
  }
}

__global__ static void multiply_bytes(const std::int8_t* a, const std::int8_t* b_transposed, std::int32_t* d) {
  const unsigned lane = threadIdx.x, group = lane / 4, member = lane % 4;
  std::uint32_t fragment[4], column[2];
  for (unsigned i = 0; i < 4; ++i) {
    std::memcpy(&fragment[i], a + (group + 8 * (i % 2)) * 32 + 4 * member + 16 * (i / 2), 4);
  }
  for (unsigned i = 0; i < 2; ++i) std::memcpy(&column[i], b_transposed + group * 32 + 4 * member + 16 * i, 4);
  std::int32_t sums[4] = {};
  mma_m16n8k32_s8(sums, fragment, column);
  for (unsigned i = 0; i < 4; ++i) d[(group + 8 * (i / 2)) * 8 + member * 2 + i % 2] = sums[i];
}

BOOST_AUTO_TEST_CASE(products_of_bytes_are_those_of_plain_loops) {
  std::mt19937 random(2);
  std::vector<std::int8_t> a(16 * 32), b(8 * 32);
  for (auto& element : a) element = static_cast<std::int8_t>(random());
  for (auto& element : b) element = static_cast<std::int8_t>(random());
  std::vector<std::int32_t> d(128);
  EmulatedStream stream;
  launch(stream_of(stream), 1, 32, 0, multiply_bytes, a.data(), b.data(), d.data());
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t col = 0; col < 8; ++col) {
      int sum = 0;
      for (std::size_t k = 0; k < 32; ++k) sum += a[row * 32 + k] * b[col * 32 + k];
      BOOST_REQUIRE_EQUAL(d[row * 8 + col], sum);
    }
  }
}

__global__ static void copy_late(const int4* in, int4* early, int4* late) {
  __shared__ int4 tile[4];
  tile[0] = tile[1] = make_int4(0, 0, 0, 0);
  cp_async_16(&tile[0], in, true);
  cp_async_commit();
  cp_async_16(&tile[1], in + 1, true);
  cp_async_16(&tile[2], in + 1, false);
  cp_async_commit();
  cp_async_wait<1>();
  early[0] = tile[0];
  early[1] = tile[1];
  cp_async_wait<0>();
  late[0] = tile[1];
  late[1] = tile[2];
}

BOOST_AUTO_TEST_CASE(a_copy_is_there_when_it_was_waited_for_and_not_before) {
  const std::array<int4, 2> in = {int4{1, 2, 3, 4}, int4{5, 6, 7, 8}};
  std::array<int4, 2> early, late;
  EmulatedStream stream;
  launch(stream_of(stream), 1, 1, 0, copy_late, in.data(), early.data(), late.data());
  BOOST_TEST((early[0].x == 1 && early[0].w == 4));
  BOOST_TEST(early[1].x == 0);
  BOOST_TEST((late[0].x == 5 && late[0].w == 8));
  BOOST_TEST((late[1].x == 0 && late[1].w == 0));
}

BOOST_AUTO_TEST_CASE(a_recorded_kernel_runs_when_it_is_replayed) {
  const auto gpu = open_emulated_gpu();
  int* count = static_cast<int*>(std::move(gpu->allocate(sizeof(int))).value());
  gpu->fill(count, 0, sizeof(int));
  BOOST_REQUIRE(gpu->begin_capture().ok());
  launch(gpu->stream(), 1, 64, 0, early_exit, count);
  const auto graph = std::move(gpu->end_capture()).value();
  BOOST_TEST(*count == 0);
  gpu->replay(*graph);
  gpu->replay(*graph);
  BOOST_TEST(gpu->synchronize().ok());
  BOOST_TEST(*count == 80);
  gpu->free(count);
}

BOOST_AUTO_TEST_CASE(a_failed_kernel_comes_out_of_synchronize_every_time) {
  const auto gpu = open_emulated_gpu();
  float* sink = static_cast<float*>(std::move(gpu->allocate(128)).value());
  launch(gpu->stream(), 1, 32, 0, diverge, 0, sink);
  for (int i = 0; i < 2; ++i) {
    const auto result = gpu->synchronize();
    BOOST_REQUIRE(!result.ok());
    BOOST_TEST(result.error().message.find("waits for ever") != std::string::npos);
  }
  gpu->free(sink);
}

BOOST_AUTO_TEST_CASE(a_gpu_breaks_when_it_is_told_to_and_no_other_does) {
  const auto path = std::filesystem::temp_directory_path() / ("troupe-gpu-fault-" + std::to_string(::getpid()));
  ::setenv("TROUPE_EMULATED_GPU_FAULT", path.c_str(), 1);
  const auto first = open_emulated_gpu(0), second = open_emulated_gpu(1);
  BOOST_TEST((first->synchronize().ok() && second->synchronize().ok()));
  std::ofstream(path) << "cuda:1 an uncorrectable ECC error was encountered\n";
  BOOST_TEST(first->synchronize().ok());
  for (int i = 0; i < 2; ++i) {
    const auto result = second->synchronize();
    BOOST_REQUIRE(!result.ok());
    BOOST_TEST(result.error().message == "the emulated GPU stopped: an uncorrectable ECC error was encountered");
  }
  BOOST_TEST(!std::filesystem::exists(path));
  BOOST_TEST(open_emulated_gpu(1)->synchronize().ok());
  ::unsetenv("TROUPE_EMULATED_GPU_FAULT");
}

BOOST_AUTO_TEST_CASE(memory_that_is_not_there_is_refused_with_what_is_free) {
  const auto gpu = open_emulated_gpu();
  const auto before = gpu->memory_info().value().free_bytes;
  const auto refused = gpu->allocate(before + 1);
  BOOST_REQUIRE(!refused.ok());
  BOOST_TEST((refused.error().code == troupe::ErrorCode::kResourceExhausted));
  BOOST_TEST(refused.error().message.find(std::to_string(before)) != std::string::npos);
  void* memory = gpu->allocate(1000).value();
  BOOST_TEST(gpu->memory_info().value().free_bytes == before - 1000);
  gpu->free(memory);
  BOOST_TEST(gpu->memory_info().value().free_bytes == before);
}

BOOST_AUTO_TEST_SUITE_END()
