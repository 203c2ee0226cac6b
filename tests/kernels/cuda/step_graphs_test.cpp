#include "kernels/cuda/step_graphs.h"

#include <boost/test/unit_test.hpp>

#include "kernels/cuda/step_buffer.h"
#include "tests/kernels/cuda/counting_gpu.h"

using namespace troupe;
using namespace troupe::kernels;

namespace {

constexpr StepPart kLayers{StepPart::Kind::kLayers}, kLogits{StepPart::Kind::kLogits};

struct Recorder {
  GpuCounts counts;
  std::unique_ptr<GpuMemory> memory =
      GpuMemory::make(std::make_unique<CountingGpu>(open_emulated_gpu(), counts)).value();
  StepGraphs graphs{*memory};
  std::byte* const target = static_cast<std::byte*>(memory->allocate(1, "a test").value());
  int calls = 0;

  ~Recorder() { memory->release(target, 1); }

  // Clears `target` as a step of that size. Returns whether it was done.
  bool run(std::uint32_t size, StepPart part = kLayers) {
    const std::byte before{0xff};
    memory->upload(target, &before, 1);
    const auto done = graphs.run(part, {&size, 1}, [&]() -> Result<void> {
      ++calls;
      memory->clear(target, 1);
      return {};
    });
    std::byte after{};
    BOOST_REQUIRE(done.ok() && memory->download(&after, target, 1).ok());
    return after == std::byte{0};
  }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(step_graphs, Recorder)

BOOST_AUTO_TEST_CASE(work_is_called_then_recorded_then_repeated) {
  for (int use = 1; use <= 5; ++use) {
    BOOST_TEST(run(8));
    BOOST_TEST(calls == std::min(use, 2));
    BOOST_TEST(counts.recordings == (use >= 2 ? 1 : 0));
    BOOST_TEST(counts.replays == std::max(use - 1, 0));
  }
}

BOOST_AUTO_TEST_CASE(other_sizes_and_parts_have_recordings_of_their_own) {
  for (int use = 0; use < 3; ++use) {
    BOOST_TEST(run(8));
    BOOST_TEST(run(16));
    BOOST_TEST(run(8, kLogits));
  }
  BOOST_TEST(calls == 6);
  BOOST_TEST(counts.recordings == 3);
}

BOOST_AUTO_TEST_CASE(pieces_of_a_step_have_recordings_of_their_own_and_go_with_it) {
  constexpr std::uint32_t kPieces = 100;  // more than there may be steps
  const auto run_pieces = [&](std::uint32_t size) {
    for (std::uint32_t piece = 0; piece < kPieces; ++piece) BOOST_TEST(run(size, {StepPart::Kind::kLayers, piece}));
  };
  for (int use = 0; use < 3; ++use) run_pieces(8);
  BOOST_TEST(counts.recordings == int{kPieces});
  BOOST_TEST(counts.replays == 2 * int{kPieces});
  for (std::uint32_t size = 100; size < 100 + StepGraphs::kMostSteps; ++size) BOOST_TEST(run(size));
  const int before = calls;
  run_pieces(8);
  BOOST_TEST(calls == before + int{kPieces});
}

BOOST_AUTO_TEST_CASE(what_was_recorded_before_memory_was_released_is_recorded_anew) {
  for (int use = 0; use < 3; ++use) BOOST_TEST(run(8));
  memory->release(memory->allocate(100, "a workspace").value(), 100);
  for (int use = 0; use < 3; ++use) BOOST_TEST(run(8));
  BOOST_TEST(counts.recordings == 2);
  graphs.forget();
  for (int use = 0; use < 3; ++use) BOOST_TEST(run(8));
  BOOST_TEST(counts.recordings == 3);
  BOOST_TEST(calls == 4);
}

BOOST_AUTO_TEST_CASE(the_recording_that_was_not_used_for_longest_makes_room) {
  constexpr auto kMost = static_cast<std::uint32_t>(StepGraphs::kMostSteps);
  for (std::uint32_t size = 0; size < kMost; ++size) {
    for (int use = 0; use < 2; ++use) BOOST_TEST(run(size));
  }
  BOOST_TEST(run(0));
  BOOST_TEST(run(kMost));  // in place of 1
  const int before = calls;
  BOOST_TEST(run(0));
  BOOST_TEST(run(2));
  BOOST_TEST(calls == before);
  BOOST_TEST(run(1));
  BOOST_TEST(calls == before + 1);
}

BOOST_AUTO_TEST_CASE(what_fails_while_it_is_recorded_is_an_error_and_no_recording) {
  const std::uint32_t size = 8;
  for (int use = 0; use < 3; ++use) {
    const auto done = graphs.run(kLayers, {&size, 1}, [&]() -> Result<void> {
      ++calls;
      return unavailable("a peer is gone");
    });
    BOOST_REQUIRE(!done.ok());
    BOOST_TEST(done.error().message == "a peer is gone");
  }
  BOOST_TEST(calls == 3);
  BOOST_TEST(counts.replays == 0);
  // Memory cannot be had in between.
  for (int use = 0; use < 2; ++use) {
    const auto done = graphs.run(kLogits, {&size, 1}, [&]() -> Result<void> {
      TROUPE_ASSIGN_OR_RETURN(void* const more, memory->allocate(10, "a test"));
      memory->release(more, 10);
      return {};
    });
    BOOST_TEST(done.ok() == (use == 0));
  }
}

BOOST_AUTO_TEST_CASE(rows_are_padded_to_powers_of_two_and_then_to_multiples_of_32) {
  const std::size_t padded[][2] = {{1, 1}, {2, 2}, {3, 4}, {9, 16}, {31, 32}, {32, 32}, {33, 64}, {64, 64}, {65, 96}};
  for (const auto& [rows, expected] : padded) BOOST_TEST(padded_rows(rows) == expected);
}

BOOST_AUTO_TEST_SUITE_END()
