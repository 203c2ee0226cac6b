#include "runtime/fabric/joined_frame.h"

#include <cassert>
#include <cstring>
#include <utility>

namespace troupe::fabric {
namespace {

// Copying a frame of this size costs about as much as the system call that it saves.
constexpr std::size_t kLargestRecordBytes = 8 << 10;

struct Lengths {
  std::uint32_t head = 0;
  std::uint32_t body = 0;
};
static_assert(sizeof(Lengths) == 8);

constexpr std::size_t padded(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

std::size_t record_bytes(const FrameBytes& frame) {
  return sizeof(Lengths) + padded(frame.head().size() + frame.header().body_bytes);
}

std::byte* append(std::byte* to, std::span<const std::byte> bytes) {
  std::memcpy(to, bytes.data(), bytes.size());
  return to + bytes.size();
}

}  // namespace

bool FrameJoiner::fits(const FrameBytes& frame) const {
  auto bytes = record_bytes(frame);
  return frames_.empty() || (bytes <= kLargestRecordBytes && record_bytes(frames_.front()) <= kLargestRecordBytes &&
                             bytes_ + bytes <= kJoinedFrameBytes);
}

void FrameJoiner::add(FrameBytes frame) {
  assert(fits(frame));
  bytes_ += record_bytes(frame);
  frames_.push_back(std::move(frame));
}

FrameBytes FrameJoiner::take() {
  auto bytes = std::exchange(bytes_, 0);
  if (frames_.size() == 1) {
    auto only = std::move(frames_.front());
    frames_.clear();
    return only;
  }
  auto body = Attachment::allocate(bytes);
  auto* to = body.mutable_data();
  for (const auto& frame : frames_) {
    auto* record = to;
    Lengths lengths{static_cast<std::uint32_t>(frame.head().size()),
                    static_cast<std::uint32_t>(frame.header().body_bytes)};
    to = append(to, std::as_bytes(std::span(&lengths, 1)));
    to = append(to, frame.head());
    for (auto part : frame.body()) to = append(to, part);
    auto* end = record + record_bytes(frame);
    std::memset(to, 0, static_cast<std::size_t>(end - to));  // nothing of this process leaves by accident
    to = end;
  }
  FrameHeader header;
  header.kind = FrameKind::kJoined;
  header.lane = frames_.front().header().lane;
  frames_.clear();
  return FrameBytes::of_body(header, std::move(body));
}

Result<void> for_each_record(std::span<const std::byte> joined, const std::function<bool(const FrameRecord&)>& each) {
  while (!joined.empty()) {
    Lengths lengths;
    if (joined.size() < sizeof(lengths)) return corrupt_data("joined frame ends within a record's lengths");
    std::memcpy(&lengths, joined.data(), sizeof(lengths));
    joined = joined.subspan(sizeof(lengths));
    auto bytes = padded(std::size_t{lengths.head} + lengths.body);
    if (bytes > joined.size()) return corrupt_data("a record exceeds its joined frame");
    if (!each({joined.first(lengths.head), joined.subspan(lengths.head, lengths.body)})) return {};
    joined = joined.subspan(bytes);
  }
  return {};
}

}  // namespace troupe::fabric
