#include "runtime/fabric/frame.h"

#include <cstring>

namespace troupe::fabric {

namespace {

bool is_of_a_channel(FrameKind kind) { return kind == FrameKind::kChannel || kind == FrameKind::kChannelAbort; }

}  // namespace

bool is_ordered(FrameKind kind) { return kind <= FrameKind::kChannelAbort; }

Result<FrameView> parse_frame(std::span<const std::byte> am_header, std::uint64_t body_bytes, const Limits& limits) {
  FrameView frame;
  if (am_header.size() < sizeof(FrameHeader)) return corrupt_data("frame header is too short");
  std::memcpy(&frame.header, am_header.data(), sizeof(FrameHeader));
  const auto& header = frame.header;
  auto rest = am_header.subspan(sizeof(FrameHeader));
  if (header.magic != kFrameMagic) return corrupt_data("frame has the wrong magic number");
  if (header.version != kFrameVersion) {
    return corrupt_data("frame has version " + std::to_string(header.version) + ", this process speaks " +
                        std::to_string(kFrameVersion));
  }
  if (header.kind < FrameKind::kMessage || header.kind > FrameKind::kReject) return corrupt_data("unknown frame kind");
  if (static_cast<std::size_t>(header.lane) >= kLanes) return corrupt_data("unknown frame lane");
  if (is_ordered(header.kind) && (header.lane == Lane::kChannels) != is_of_a_channel(header.kind)) {
    return corrupt_data("frame in the wrong lane");
  }
  if (header.flags & ~kInPieces) return corrupt_data("frame has unknown flags");
  if (frame.in_pieces()) {
    if (!is_ordered(header.kind) || header.body_bytes == 0) return corrupt_data("frame of this kind is not in pieces");
    if (body_bytes != 0) return corrupt_data("frame in pieces has a body as well");
    body_bytes = header.body_bytes;
  }
  if (header.body_bytes != body_bytes) return corrupt_data("frame body is not as long as announced");
  if (body_bytes > limits.frame_bytes) return resource_exhausted("frame body exceeds limit frame_bytes", "frame_bytes");
  if (header.metadata_bytes > limits.frame_metadata_bytes) {
    return resource_exhausted("frame metadata exceeds limit frame_metadata_bytes", "frame_metadata_bytes");
  }
  if (header.attachments > limits.attachments) {
    return resource_exhausted("frame exceeds limit attachments", "attachments");
  }

  std::uint64_t table_bytes = std::uint64_t{header.attachments} * sizeof(std::uint64_t);
  if (rest.size() < table_bytes) return corrupt_data("frame attachment table is truncated");
  frame.attachment_sizes.resize(header.attachments);
  if (table_bytes > 0) std::memcpy(frame.attachment_sizes.data(), rest.data(), table_bytes);
  rest = rest.subspan(table_bytes);

  bool is_inline = header.metadata_bytes <= kInlineMetadataBytes;
  if (rest.size() != (is_inline ? header.metadata_bytes : 0))
    return corrupt_data("frame metadata has the wrong length");
  frame.inline_metadata = rest;
  auto left = body_bytes;
  if (!is_inline) {
    if (left < header.metadata_bytes) return corrupt_data("frame metadata is truncated");
    left -= header.metadata_bytes;
  }
  for (auto size : frame.attachment_sizes) {
    if (size > left) return corrupt_data("frame attachments exceed its body");
    left -= size;
  }
  if (header.kind == FrameKind::kJoined) {
    if (left != body_bytes || header.metadata_bytes != 0) return corrupt_data("joined frame has parts of its own");
    if (left == 0 || left > kJoinedFrameBytes) return corrupt_data("joined frame of the wrong size");
    return frame;
  }
  if (left != 0) return corrupt_data("frame body is longer than its parts");
  if (!is_ordered(header.kind) && body_bytes != 0) return corrupt_data("control frame has a body");
  if (header.kind == FrameKind::kMessage && header.metadata_bytes % sizeof(capnp::word) != 0) {
    return corrupt_data("Cap'n Proto segment is not a whole number of words");
  }
  if (header.kind == FrameKind::kMessage && header.metadata_bytes == 0) return corrupt_data("message without a root");
  if (header.kind != FrameKind::kMessage && header.kind != FrameKind::kChannel && header.attachments != 0) {
    return corrupt_data("frame kind carries no attachments");
  }
  if (header.kind == FrameKind::kChannelAbort && header.metadata_bytes != 0) {
    return corrupt_data("the end of a channel carries nothing");
  }
  if (header.kind == FrameKind::kChannel && (header.attachments != 1 || header.metadata_bytes != 0)) {
    return corrupt_data("channel frame must be one attachment");
  }
  return frame;
}

std::uint64_t frame_cost(const FrameHeader& header) {
  std::uint64_t inline_bytes = header.metadata_bytes <= kInlineMetadataBytes ? header.metadata_bytes : 0;
  return kFrameOverheadBytes + inline_bytes + header.body_bytes;
}

FrameBytes::FrameBytes(const FrameHeader& header, std::span<const std::uint64_t> sizes,
                       std::span<const std::byte> metadata)
    : head_bytes_(sizeof(FrameHeader) + sizes.size_bytes() + metadata.size()) {
  head_ = std::make_unique_for_overwrite<std::byte[]>(head_bytes_);
  std::memcpy(head_.get(), &header, sizeof(FrameHeader));
  if (!sizes.empty()) std::memcpy(head_.get() + sizeof(FrameHeader), sizes.data(), sizes.size_bytes());
  if (!metadata.empty()) {
    std::memcpy(head_.get() + sizeof(FrameHeader) + sizes.size_bytes(), metadata.data(), metadata.size());
  }
}

FrameBytes::FrameBytes(FrameHeader header, std::span<const std::uint64_t> sizes, Attachment body)
    : FrameBytes((header.body_bytes = body.size(), header), sizes, std::span<const std::byte>{}) {
  if (body.size() > 0) body_.push_back(body.bytes());
  attachment_ = std::move(body);
}

Result<FrameBytes> FrameBytes::of_message(FrameHeader header, MessageDataPtr data, const Limits& limits) {
  auto segment = data->segment();
  auto attachments = data->attachments();
  if (segment.size() > limits.frame_metadata_bytes) {
    return resource_exhausted(
        "message of " + std::to_string(segment.size()) + " bytes exceeds limit frame_metadata_bytes",
        "frame_metadata_bytes");
  }
  if (attachments.size() > limits.attachments) {
    return resource_exhausted("message exceeds limit attachments", "attachments");
  }
  bool is_inline = segment.size() <= kInlineMetadataBytes;
  header.metadata_bytes = static_cast<std::uint32_t>(segment.size());
  header.attachments = static_cast<std::uint16_t>(attachments.size());
  header.body_bytes = data->bytes() - (is_inline ? segment.size() : 0);
  if (header.body_bytes > limits.frame_bytes) {
    return resource_exhausted("message of " + std::to_string(data->bytes()) + " bytes exceeds limit frame_bytes",
                              "frame_bytes");
  }
  AttachmentSizes sizes;
  for (const auto& attachment : attachments) sizes.push_back(attachment.size());
  FrameBytes frame(header, sizes, is_inline ? segment : std::span<const std::byte>{});
  if (!is_inline) frame.body_.push_back(segment);
  for (const auto& attachment : attachments) {
    if (attachment.size() > 0) frame.body_.push_back(attachment.bytes());
  }
  frame.data_ = std::move(data);
  return frame;
}

FrameBytes FrameBytes::of_metadata(FrameHeader header, std::span<const std::byte> metadata) {
  header.metadata_bytes = static_cast<std::uint32_t>(metadata.size());
  return FrameBytes(header, {}, metadata);
}

FrameBytes FrameBytes::of_attachment(FrameHeader header, Attachment attachment) {
  header.attachments = 1;
  std::uint64_t size = attachment.size();
  return FrameBytes(header, {&size, 1}, std::move(attachment));
}

FrameBytes FrameBytes::of_body(FrameHeader header, Attachment body) { return FrameBytes(header, {}, std::move(body)); }

}  // namespace troupe::fabric
