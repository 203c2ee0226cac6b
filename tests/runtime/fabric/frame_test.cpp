#include "runtime/fabric/frame.h"

#include <boost/test/unit_test.hpp>

#include "runtime/fabric/handshake.h"
#include "runtime/fabric/heartbeat.h"
#include "schema/generate.capnp.h"

namespace troupe::fabric {
namespace {

using std::chrono::milliseconds;

Message<schema::Cancel> cancel_with(std::vector<Attachment> attachments) {
  MessageBuilder<schema::Cancel> builder;
  builder.root().setRequest(1);
  for (auto& attachment : attachments) builder.attach(std::move(attachment));
  return std::move(builder).finish();
}

std::vector<std::byte> head_of(const FrameBytes& frame) { return {frame.head().begin(), frame.head().end()}; }

FrameHeader& header_in(std::vector<std::byte>& head) { return *reinterpret_cast<FrameHeader*>(head.data()); }

}  // namespace

BOOST_AUTO_TEST_SUITE(frame)

BOOST_AUTO_TEST_CASE(a_frame_with_attachments_parses_back) {
  Limits limits;
  auto message = cancel_with({Attachment::allocate(100), Attachment::allocate(0), Attachment::allocate(7)});
  auto frame = FrameBytes::of_message({}, message.data(), limits);
  BOOST_REQUIRE(frame.ok());
  BOOST_TEST(frame->header().body_bytes == 107);
  auto view = parse_frame(frame->head(), 107, limits);
  BOOST_REQUIRE(view.ok());
  BOOST_TEST(view->attachment_sizes == (std::vector<std::uint64_t>{100, 0, 7}));
  BOOST_TEST(view->inline_metadata.size() == message.data()->segment().size());
}

BOOST_AUTO_TEST_CASE(large_metadata_goes_into_the_body) {
  Limits limits;
  auto message = make_message<schema::Generate>([](schema::Generate::Builder g) { g.initTokens(10'000); });
  auto frame = FrameBytes::of_message({}, message.data(), limits);
  BOOST_REQUIRE(frame.ok());
  BOOST_TEST(frame->header().body_bytes == message.data()->segment().size());
  auto view = parse_frame(frame->head(), frame->header().body_bytes, limits);
  BOOST_REQUIRE(view.ok());
  BOOST_TEST(view->metadata_in_body());
}

BOOST_AUTO_TEST_CASE(every_broken_header_is_refused) {
  Limits limits;
  auto frame = FrameBytes::of_message({}, cancel_with({Attachment::allocate(16)}).data(), limits);
  BOOST_REQUIRE(frame.ok());
  auto good = head_of(*frame);
  BOOST_REQUIRE(parse_frame(good, 16, limits).ok());
  auto refused = [&](auto change) {
    auto head = good;
    change(header_in(head));
    return !parse_frame(head, 16, limits).ok();
  };
  BOOST_TEST(refused([](FrameHeader& h) { h.magic = 0x20544547; }));
  BOOST_TEST(refused([](FrameHeader& h) { ++h.version; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.kind = static_cast<FrameKind>(0); }));
  BOOST_TEST(refused([](FrameHeader& h) { h.kind = static_cast<FrameKind>(200); }));
  BOOST_TEST(refused([](FrameHeader& h) { h.kind = FrameKind::kChannel; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.kind = FrameKind::kHeartbeat; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.lane = static_cast<Lane>(2); }));
  BOOST_TEST(refused([](FrameHeader& h) { h.lane = Lane::kChannels; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.reserved = 1; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.body_bytes = 17; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.metadata_bytes -= 8; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.metadata_bytes = 0; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.metadata_bytes = UINT32_MAX; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.attachments = 0; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.attachments = UINT16_MAX; }));
  BOOST_TEST(!parse_frame(good, 15, limits).ok());
  for (std::size_t length = 0; length < good.size(); ++length) {
    BOOST_TEST(!parse_frame(std::span(good).first(length), 16, limits).ok());
  }
}

BOOST_AUTO_TEST_CASE(attachment_sizes_that_overflow_are_refused) {
  Limits limits;
  auto frame =
      FrameBytes::of_message({}, cancel_with({Attachment::allocate(16), Attachment::allocate(16)}).data(), limits);
  auto head = head_of(*frame);
  std::uint64_t huge = UINT64_MAX - 15;
  std::memcpy(head.data() + sizeof(FrameHeader), &huge, sizeof(huge));
  BOOST_TEST(!parse_frame(head, 32, limits).ok());
}

BOOST_AUTO_TEST_CASE(limits_are_named_before_anything_is_sent) {
  Limits limits;
  limits.frame_bytes = 1000;
  auto frame = FrameBytes::of_message({}, cancel_with({Attachment::allocate(2000)}).data(), limits);
  BOOST_REQUIRE(!frame.ok());
  BOOST_TEST(frame.error().param == "frame_bytes");
}

BOOST_AUTO_TEST_CASE(a_proof_holds_for_its_secret_role_and_introductions_only) {
  Introduction introduction{{"left", 5}, "127.0.0.1:9", 1, 2, 3, {}};
  auto caller = *encode(introduction);
  introduction.nonce[0] = 1;
  auto listener = *encode(introduction);
  auto proof = prove("secret", Role::kCaller, caller, listener);
  BOOST_TEST(equal(proof, prove("secret", Role::kCaller, caller, listener)));
  BOOST_TEST(!equal(proof, prove("Secret", Role::kCaller, caller, listener)));
  BOOST_TEST(!equal(proof, prove("secret", Role::kListener, caller, listener)));
  BOOST_TEST(!equal(proof, prove("secret", Role::kCaller, listener, caller)));
}

BOOST_AUTO_TEST_CASE(malformed_introductions_are_refused) {
  auto good = *encode({{"left", 5}, "127.0.0.1:9", 1, 2, 3, {}});
  BOOST_REQUIRE(decode(good).ok());
  auto refused = [&](auto change) {
    auto wire = good;
    change(wire);
    return !decode(wire).ok();
  };
  BOOST_TEST(refused([](IntroductionWire& w) { w.incarnation = 0; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.connection = 0; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.name[0] = 0; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.name[1] = '\n'; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.name[63] = 'x'; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.endpoint[0] = '\x1b'; }));
}

BOOST_AUTO_TEST_CASE(a_silent_peer_is_dead_after_the_timeout_and_a_heard_one_is_not) {
  Heartbeat heartbeat(milliseconds(500), milliseconds(3000));
  Heartbeat::Time now{std::chrono::hours(1)};
  heartbeat.add(1, now);
  heartbeat.add(2, now);
  for (int i = 0; i < 6; ++i) {
    now += milliseconds(500);
    heartbeat.heard(2);
    BOOST_TEST(heartbeat.check(now).silent.empty());
  }
  now += milliseconds(500);
  heartbeat.heard(2);
  auto verdict = heartbeat.check(now);
  BOOST_TEST(verdict.silent == std::vector<std::uint64_t>{1});
  BOOST_TEST((verdict.next == now + milliseconds(500)));
}

BOOST_AUTO_TEST_CASE(a_process_that_was_stopped_itself_blames_nobody) {
  Heartbeat heartbeat(milliseconds(500), milliseconds(3000));
  Heartbeat::Time now{std::chrono::hours(1)};
  heartbeat.add(1, now);
  heartbeat.check(now);
  now += std::chrono::minutes(5);
  BOOST_TEST(heartbeat.check(now).silent.empty());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::fabric
