#include "runtime/fabric/frame.h"

#include <boost/test/unit_test.hpp>

#include "runtime/fabric/handshake.h"
#include "runtime/fabric/heartbeat.h"
#include "runtime/fabric/joined_frame.h"
#include "runtime/fabric/pieces.h"
#include "runtime/fabric/ucx.h"
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
  BOOST_TEST((view->attachment_sizes == AttachmentSizes{100, 0, 7}));
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
  BOOST_TEST(refused([](FrameHeader& h) { h.kind = FrameKind::kChannelAbort; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.kind = FrameKind::kHeartbeat; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.lane = static_cast<Lane>(2); }));
  BOOST_TEST(refused([](FrameHeader& h) { h.lane = Lane::kChannels; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.flags = 2; }));
  BOOST_TEST(refused([](FrameHeader& h) { h.flags = kInPieces; }));
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

BOOST_AUTO_TEST_CASE(a_head_alone_announces_a_body_in_pieces) {
  Limits limits;
  auto frame =
      FrameBytes::of_message({}, cancel_with({Attachment::allocate(16), Attachment::allocate(3)}).data(), limits);
  auto head = head_of(*frame);
  header_in(head).flags = kInPieces;
  auto view = parse_frame(head, 0, limits);
  BOOST_REQUIRE(view.ok());
  BOOST_TEST(view->in_pieces());
  BOOST_TEST(view->header.body_bytes == 19);
  limits.frame_bytes = 18;
  BOOST_TEST(!parse_frame(head, 0, limits).ok());
  auto control = head_of(FrameBytes::of_metadata({.kind = FrameKind::kHeartbeat}, {}));
  header_in(control).flags = kInPieces;
  BOOST_TEST(!parse_frame(control, 0, Limits{}).ok());
  auto empty = head_of(FrameBytes::of_message({}, cancel_with({}).data(), Limits{}).value());
  header_in(empty).flags = kInPieces;
  BOOST_TEST(!parse_frame(empty, 0, Limits{}).ok());
}

BOOST_AUTO_TEST_CASE(a_body_leaves_in_pieces_and_comes_together) {
  std::vector<Attachment> attachments;
  std::vector<std::byte> expected;
  for (std::size_t size : {1000, 0, 1, 4096}) {
    attachments.push_back(Attachment::allocate(size));
    for (std::size_t i = 0; i < size; ++i) attachments.back().mutable_data()[i] = static_cast<std::byte>(i * 7 + size);
    expected.insert(expected.end(), attachments.back().data(), attachments.back().data() + size);
  }
  for (std::size_t largest : {1, 7, 1024, 4096, 1 << 20}) {
    auto frame = std::make_shared<FrameBytes>(FrameBytes::of_message({}, cancel_with(attachments).data(), {}).value());
    OutgoingBody body(frame);
    Arrival arrival;
    arrival.header = frame->header();
    arrival.body_offset = 64;
    arrival.buffer = Buffer::allocate(64 + expected.size());
    for (auto piece = body.next(largest); !piece.empty(); piece = body.next(largest)) {
      BOOST_TEST(piece.size() <= largest);
      BOOST_TEST(!arrival.is_complete());
      BOOST_REQUIRE(arrival.append(piece));
    }
    BOOST_TEST(arrival.is_complete());
    BOOST_TEST(!arrival.append(std::span(expected).first(1)));
    BOOST_TEST(std::equal(expected.begin(), expected.end(), arrival.buffer.data() + 64));
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

BOOST_AUTO_TEST_CASE(joined_frames_come_apart_as_they_went_together) {
  Limits limits;
  FrameJoiner joiner;
  for (std::size_t size : {0, 1, 8, 100}) {
    FrameHeader header;
    header.sequence = size;
    auto attachment = Attachment::allocate(size);
    std::fill_n(attachment.mutable_data(), size, static_cast<std::byte>(size));
    auto frame = FrameBytes::of_message(header, cancel_with({std::move(attachment)}).data(), limits);
    BOOST_REQUIRE(frame.ok());
    BOOST_REQUIRE(joiner.fits(*frame));
    joiner.add(std::move(frame).value());
  }
  auto joined = joiner.take();
  BOOST_TEST(joiner.empty());
  BOOST_TEST((joined.header().kind == FrameKind::kJoined));
  BOOST_REQUIRE(parse_frame(joined.head(), joined.header().body_bytes, limits).ok());
  std::vector<std::uint64_t> sizes;
  auto walked = for_each_record(joined.body()[0], [&](const FrameRecord& record) {
    auto view = parse_frame(record.head, record.body.size(), limits);
    BOOST_REQUIRE(view.ok());
    BOOST_TEST(view->header.sequence == record.body.size());
    for (auto byte : record.body) BOOST_TEST((byte == static_cast<std::byte>(record.body.size())));
    sizes.push_back(record.body.size());
    return true;
  });
  BOOST_TEST(walked.ok());
  BOOST_TEST(sizes == (std::vector<std::uint64_t>{0, 1, 8, 100}));
}

BOOST_AUTO_TEST_CASE(a_frame_alone_is_not_wrapped_and_a_large_one_goes_alone) {
  Limits limits;
  FrameJoiner joiner;
  auto frame = [&](std::size_t bytes) {
    return FrameBytes::of_message({}, cancel_with({Attachment::allocate(bytes)}).data(), limits).value();
  };
  joiner.add(frame(10));
  BOOST_TEST(!joiner.fits(frame(64 << 10)));
  BOOST_TEST((joiner.take().header().kind == FrameKind::kMessage));
  BOOST_TEST(joiner.fits(frame(64 << 10)));
  joiner.add(frame(64 << 10));
  BOOST_TEST(!joiner.fits(frame(10)));
  BOOST_TEST((joiner.take().header().kind == FrameKind::kMessage));
  while (joiner.fits(frame(1000))) joiner.add(frame(1000));
  BOOST_TEST(joiner.take().header().body_bytes <= kJoinedFrameBytes);
}

BOOST_AUTO_TEST_CASE(records_that_do_not_lie_in_their_joined_frame_are_refused) {
  FrameJoiner joiner;
  for (int i = 0; i < 3; ++i) joiner.add(FrameBytes::of_metadata({}, std::vector<std::byte>(16)));
  auto joined = joiner.take();
  auto body = joined.body()[0];
  auto record = body.size() / 3;
  for (std::size_t length = 1; length < body.size(); ++length) {
    std::size_t visited = 0;
    auto walked = for_each_record(body.first(length), [&](const FrameRecord&) { return ++visited > 0; });
    BOOST_TEST(walked.ok() == (length % record == 0));
    BOOST_TEST(visited == length / record);
  }
}

BOOST_AUTO_TEST_CASE(limits_are_named_before_anything_is_sent) {
  Limits limits;
  limits.frame_bytes = 1000;
  auto frame = FrameBytes::of_message({}, cancel_with({Attachment::allocate(2000)}).data(), limits);
  BOOST_REQUIRE(!frame.ok());
  BOOST_TEST(frame.error().param == "frame_bytes");
}

BOOST_AUTO_TEST_CASE(a_proof_holds_for_its_secret_role_and_introductions_only) {
  Introduction introduction{{"left", 5}, "127.0.0.1:9", 1, 2, 3, kFirstPieces, {}};
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
  auto good = *encode({{"left", 5}, "127.0.0.1:9", 1, 2, 3, kFirstPieces, {}});
  BOOST_REQUIRE(decode(good).ok());
  auto refused = [&](auto change) {
    auto wire = good;
    change(wire);
    return !decode(wire).ok();
  };
  BOOST_TEST(refused([](IntroductionWire& w) { w.incarnation = 0; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.connection = 0; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.pieces = kFrames; }));
  BOOST_TEST(refused([](IntroductionWire& w) { w.pieces = 1 << 16; }));
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
