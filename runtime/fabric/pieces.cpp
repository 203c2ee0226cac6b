#include "runtime/fabric/pieces.h"

#include <algorithm>
#include <cstring>

namespace troupe::fabric {

std::span<const std::byte> OutgoingBody::next(std::size_t largest) {
  const auto& parts = frame_->body();
  if (part_ == parts.size()) return {};
  auto rest = parts[part_].subspan(offset_);
  auto piece = rest.first(std::min(rest.size(), largest));
  offset_ += piece.size();
  if (piece.size() == rest.size()) {
    ++part_;
    offset_ = 0;
  }
  return piece;
}

bool Arrival::append(std::span<const std::byte> bytes) {
  if (bytes.size() > header.body_bytes - received_bytes) return false;
  if (!bytes.empty()) std::memcpy(buffer.data() + body_offset + received_bytes, bytes.data(), bytes.size());
  received_bytes += bytes.size();
  return true;
}

}  // namespace troupe::fabric
