#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "runtime/fabric/buffer.h"
#include "runtime/fabric/frame.h"

namespace troupe::fabric {

// Bodies that are too large for one active message. The frame's head goes first, marked kInPieces; then the body, as
// bare active messages under the number that the receiver keeps for this connection and lane; then kSealed. Other
// frames pass between the pieces, except ordered ones of the same lane.
//
// UCX has three ways of its own for this, and none will do: rendezvous and PUT over TCP end this process when the peer
// goes at the wrong moment, and its fragments are copied once more on both sides. A bare piece is sent from where it
// lies and is copied once, to where it belongs.
//
// A piece does not say who sent it. Whoever sends one under another's number makes a sealed body too long, so that it
// is refused: it can break a connection, and change no frame.

// The rest of a body on its way out.
class OutgoingBody {
 public:
  OutgoingBody() = default;
  explicit OutgoingBody(std::shared_ptr<const FrameBytes> frame) : frame_(std::move(frame)) {}

  explicit operator bool() const { return frame_ != nullptr; }
  const std::shared_ptr<const FrameBytes>& frame() const { return frame_; }
  // The next piece, of at most `largest` bytes and within one part of the body; empty when all were taken.
  std::span<const std::byte> next(std::size_t largest);

 private:
  std::shared_ptr<const FrameBytes> frame_;
  std::size_t part_ = 0;
  std::size_t offset_ = 0;  // in that part
};

// A frame that came in, with memory of its own.
struct Arrival {
  FrameHeader header;
  AttachmentSizes attachment_sizes;
  Buffer buffer;  // metadata, padded when it came in the header; then the attachments
  std::size_t body_offset = 0;
  std::uint64_t received_bytes = 0;  // of the body

  bool is_complete() const { return received_bytes == header.body_bytes; }
  // False when the body has no room for these bytes.
  bool append(std::span<const std::byte> bytes);
};

}  // namespace troupe::fabric
