#include "runtime/collective/over_fabric.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <future>
#include <thread>

#include "runtime/collective/mailbox.h"
#include "tests/runtime/fabric/support.h"

namespace troupe::collective {
namespace {

using namespace std::chrono_literals;
using fabric::test::kPatience;
using fabric::test::Node;

const Interruption kNone = [] { return Result<void>(); };

std::vector<std::byte> frame_of(std::uint32_t number, std::size_t size) {
  std::vector<std::byte> frame(size);
  for (std::size_t i = 0; i < size; ++i) frame[i] = std::byte(number * 7 + i);
  return frame;
}

// Ranks 0 and 1, each on a node of its own in this process.
struct TwoRanks {
  TwoRanks() : left("left"), right("right") {
    const auto connected = left.fabric().connect(right.fabric().endpoint());
    if (!connected.ok()) BOOST_FAIL(connected.error().message);
    auto other = std::async(std::launch::async, [&] { return links(1); });
    groups[0] = make_group_over_fabric(0, links(0), kPatience);
    groups[1] = make_group_over_fabric(1, other.get(), kPatience);
  }
  ~TwoRanks() {
    for (auto& group : groups) group.reset();
    left.stop();
    right.stop();
  }

  std::vector<std::unique_ptr<Link>> links(std::uint32_t rank) {
    std::vector<fabric::Channel> channels(2);
    Node& own = rank == 0 ? left : right;
    Node& peer = rank == 0 ? right : left;
    channels[1 - rank] = own.fabric().open_channel(peer.fabric().node(), 5);
    auto made = make_links(rank, std::move(channels), kPatience);
    if (!made.ok()) BOOST_FAIL(made.error().message);
    return std::move(made).value();
  }

  Node left, right;
  std::unique_ptr<Communicator> groups[2];
};

}  // namespace

BOOST_AUTO_TEST_SUITE(over_fabric)

BOOST_AUTO_TEST_CASE(frames_pass_through_a_mailbox_in_order_and_whole) {
  const auto made = SharedMailboxes::make();
  BOOST_REQUIRE(made.ok());
  const auto opened = SharedMailboxes::open((*made)->offer());
  BOOST_REQUIRE(opened.ok());
  (*made)->close_file();
  constexpr std::uint32_t kFrames = 20'000;
  const auto size_of = [](std::uint32_t number) { return number % 1000 == 0 ? Mailbox::kSlotBytes : number % 97; };
  const std::jthread writer([&] {
    for (std::uint32_t i = 0; i < kFrames; ++i) {
      if (!put((*opened)->to_maker(), frame_of(i, size_of(i)), kPatience, kNone).ok()) return;
    }
  });
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    std::vector<std::byte> got(size_of(i));
    BOOST_REQUIRE(take((*made)->to_maker(), got, kPatience, kNone).ok());
    BOOST_REQUIRE((got == frame_of(i, size_of(i))));
  }
}

BOOST_AUTO_TEST_CASE(waiting_ends_at_the_deadline_or_by_an_interruption) {
  const auto made = SharedMailboxes::make();
  BOOST_REQUIRE(made.ok());
  Mailbox& mailbox = (*made)->from_maker();
  const auto frame = frame_of(1, 10);
  std::vector<std::byte> got(10);
  BOOST_TEST((take(mailbox, got, 1ms, kNone).error().code == ErrorCode::kDeadlineExceeded));
  for (std::uint32_t i = 0; i < Mailbox::kSlots; ++i) BOOST_TEST(put(mailbox, frame, kPatience, kNone).ok());
  BOOST_TEST((put(mailbox, frame, 1ms, kNone).error().code == ErrorCode::kDeadlineExceeded));
  const Interruption cut = [] { return Result<void>(cancelled("enough")); };
  BOOST_TEST(put(mailbox, frame, kPatience, cut).error().message == "enough");
  BOOST_TEST(take(mailbox, got, kPatience, cut).ok());  // it is there: nothing to wait for
  got.resize(11);
  BOOST_TEST((take(mailbox, got, kPatience, kNone).error().code == ErrorCode::kCorruptData));
}

BOOST_AUTO_TEST_CASE(only_the_memory_that_was_offered_is_mapped) {
  const auto made = SharedMailboxes::make();
  BOOST_REQUIRE(made.ok());
  const auto refused = [&](auto change) {
    SharedMailboxes::Offer offer = (*made)->offer();
    change(offer);
    const auto opened = SharedMailboxes::open(offer);
    return !opened.ok() && opened.error().code == ErrorCode::kNotFound;
  };
  BOOST_TEST(refused([](auto& offer) { offer.token[3] ^= std::byte{1}; }));
  BOOST_TEST(refused([](auto& offer) { offer.file = 1 << 20; }));
  BOOST_TEST(refused([](auto& offer) { offer.pid = -1; }));
  const int plain = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  const int unsealed = ::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  BOOST_REQUIRE(::ftruncate(unsealed, 2 << 20) == 0);
  BOOST_TEST(refused([&](auto& offer) { offer.file = plain; }));
  BOOST_TEST(refused([&](auto& offer) { offer.file = unsealed; }));
  ::close(plain);
  ::close(unsealed);
  BOOST_TEST(!refused([](auto&) {}));
}

BOOST_AUTO_TEST_CASE(ranks_of_one_host_add_up_small_and_large_tensors_alike) {
  TwoRanks ranks;
  for (const std::size_t size : {std::size_t{1}, std::size_t{896}, Mailbox::kSlotBytes / sizeof(float),
                                 Mailbox::kSlotBytes / sizeof(float) + 1, std::size_t{500'000}}) {
    for (int repetition = 0; repetition < 20; ++repetition) {
      const auto sum = [&](std::uint32_t rank) {
        std::vector<float> data(size);
        for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<float>(i % 1000) * 0.1f + static_cast<float>(rank);
        return ranks.groups[rank]->all_reduce(data).ok() ? data : std::vector<float>();
      };
      auto other = std::async(std::launch::async, sum, 1);
      const auto own = sum(0);
      BOOST_REQUIRE(own.size() == size);
      BOOST_TEST((own == other.get()));
      BOOST_TEST(own[size / 2] == static_cast<float>(size / 2 % 1000) * 0.1f * 2 + 1,
                 boost::test_tools::tolerance(1e-5f));
    }
  }
  // A rank may be two gathers ahead of the root.
  auto other = std::async(std::launch::async, [&] {
    const std::vector<float> mine(3, 1.0f);
    for (int i = 0; i < 10; ++i) {
      if (!ranks.groups[1]->gather(mine, {}, 0).ok()) return false;
    }
    return true;
  });
  std::vector<float> all(6);
  for (int i = 0; i < 10; ++i) BOOST_TEST(ranks.groups[0]->gather(std::vector<float>(3, 2.0f), all, 0).ok());
  BOOST_TEST(other.get());
  BOOST_TEST(all[0] == 2.0f);
  BOOST_TEST(all[5] == 1.0f);
}

BOOST_AUTO_TEST_CASE(an_abort_ends_a_wait_and_everything_after_it) {
  TwoRanks ranks;
  auto waiting = std::async(std::launch::async, [&] {
    std::vector<float> data(8);
    return ranks.groups[0]->all_reduce(data);
  });
  ranks.groups[0]->abort("epoch 2 begins");
  const auto ended = waiting.get();
  BOOST_REQUIRE(!ended.ok());
  BOOST_TEST((ended.error().code == ErrorCode::kCancelled));
  BOOST_TEST(ended.error().message == "epoch 2 begins");
  std::vector<float> data(8);
  BOOST_TEST(!ranks.groups[0]->all_reduce(data).ok());
}

BOOST_AUTO_TEST_CASE(an_abort_ends_the_waits_of_the_other_ranks) {
  TwoRanks ranks;
  std::vector<float> sums(8);
  auto other = std::async(std::launch::async, [&] {
    std::vector<float> data(8);
    return ranks.groups[1]->all_reduce(data);
  });
  BOOST_TEST(ranks.groups[0]->all_reduce(sums).ok());
  BOOST_TEST(other.get().ok());
  auto waiting = std::async(std::launch::async, [&] {
    std::vector<float> data(8);
    return ranks.groups[1]->all_reduce(data);
  });
  ranks.groups[0]->abort("a step failed");
  const auto ended = waiting.get();
  BOOST_REQUIRE(!ended.ok());
  BOOST_TEST((ended.error().code == ErrorCode::kCancelled));
  BOOST_TEST(ended.error().message.find("rank 0: ") != std::string::npos, ended.error().message);
  BOOST_TEST(!ranks.groups[1]->check().ok());
}

BOOST_AUTO_TEST_CASE(a_lost_peer_ends_a_wait) {
  TwoRanks ranks;
  auto waiting = std::async(std::launch::async, [&] {
    std::vector<float> data(8);
    return ranks.groups[0]->all_reduce(data);
  });
  ranks.right.stop();
  const auto ended = waiting.get();
  BOOST_REQUIRE(!ended.ok());
  BOOST_TEST((ended.error().code == ErrorCode::kUnavailable));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::collective
