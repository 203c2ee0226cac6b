#include "runtime/fabric/message.h"

#include <algorithm>

namespace troupe::fabric {

Attachment Attachment::allocate(std::size_t bytes) { return slice(Buffer::allocate(bytes), 0, bytes); }

Attachment Attachment::copy_of(std::span<const std::byte> bytes) {
  auto attachment = allocate(bytes.size());
  if (!bytes.empty()) std::memcpy(attachment.mutable_data(), bytes.data(), bytes.size());
  return attachment;
}

Attachment Attachment::wrap(std::shared_ptr<const void> owner, std::span<const std::byte> bytes) {
  return slice(Buffer::wrap(std::move(owner), bytes.data(), bytes.size()), 0, bytes.size());
}

Attachment Attachment::slice(Buffer buffer, std::size_t offset, std::size_t bytes) {
  assert(offset <= buffer.capacity() && bytes <= buffer.capacity() - offset);
  Attachment attachment;
  attachment.data_ = buffer.data() + offset;
  attachment.size_ = bytes;
  attachment.buffer_ = std::move(buffer);
  return attachment;
}

std::uint64_t MessageData::bytes() const {
  std::uint64_t total = segment().size();
  for (const auto& attachment : attachments_) total += attachment.size();
  return total;
}

capnp::ReaderOptions reader_options(std::size_t word_count) {
  // Validation was strict with what came from outside; a handler may go over its lists again and again.
  constexpr std::uint64_t kVisits = 1024;
  constexpr std::uint64_t kSmallWords = 128;
  capnp::ReaderOptions options;
  options.traversalLimitInWords = kVisits * (word_count + kSmallWords);
  options.nestingLimit = 32;
  return options;
}

kj::ArrayPtr<capnp::word> SegmentBuilder::allocateSegment(capnp::uint minimum_words) {
  auto words = std::max<std::size_t>(minimum_words, first_words_);
  auto buffer = Buffer::allocate(words * sizeof(capnp::word));
  std::memset(buffer.data(), 0, words * sizeof(capnp::word));
  auto* begin = reinterpret_cast<capnp::word*>(buffer.data());
  segments_.push_back(std::move(buffer));
  first_words_ = words * 2;  // further segments grow, so that a large list costs few of them
  return kj::arrayPtr(begin, words);
}

}  // namespace troupe::fabric
