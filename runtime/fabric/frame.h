#pragma once

#include <boost/container/small_vector.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/fabric/message.h"

namespace troupe::fabric {

inline constexpr std::uint32_t kFrameMagic = 0x50555254;  // "TRUP"
inline constexpr std::uint16_t kFrameVersion = 4;
// Metadata up to this size travels in the active message's header, so that its body is the bare attachments.
inline constexpr std::size_t kInlineMetadataBytes = 2048;
// Body of the largest kJoined frame.
inline constexpr std::size_t kJoinedFrameBytes = 32 << 10;
// What a frame costs a sender's credit beyond its bytes: the receiver's bookkeeping.
inline constexpr std::uint64_t kFrameOverheadBytes = 256;

enum class FrameKind : std::uint8_t {
  // To an actor; ordered within the lane, and paid with credit.
  kMessage = 1,  // metadata: Cap'n Proto segment of type `type_id`
  kEmpty,        // a result without a value
  kError,        // a failed request; metadata: encoded error
  kExit,         // exit message; metadata: encoded error
  kMonitor,      // `source` wants a kDown when `destination` dies
  kDown,         // `source` died; metadata: encoded error
  kLink,
  kUnlink,
  kChannel,       // `destination` is the channel id; the body is one attachment
  kChannelAbort,  // the sender takes nothing of this channel any more
  // Between the fabrics themselves; neither ordered nor paid.
  kCredit,        // `message_id` bytes of lane `lane` were released
  kCreditWanted,  // the sender waits: return what is released, now and with the next release
  kHeartbeat,
  kBye,
  kSealed,  // a body that came in pieces is complete: pieces.h
  kJoined,  // the body is a list of ordered frames of lane `lane`: joined_frame.h
  kHello,   // metadata of these: handshake.h
  kChallenge,
  kProof,
  kWelcome,
  kReject,  // metadata: text
};

// Actors and channels do not wait for each other's credit: a full mailbox must not stop a collective.
enum class Lane : std::uint8_t { kActors = 0, kChannels = 1 };
inline constexpr std::size_t kLanes = 2;

// The body does not follow in the active message, but in active messages of its own: pieces.h
inline constexpr std::uint16_t kInPieces = 1;

// What every active message begins with, but for pieces, little-endian. Behind it, still in the active message's
// header, stand the sizes of the attachments (8 bytes each) and the metadata if it is small; the active message's body
// is the metadata if it is large, and the attachments back to back.
struct FrameHeader {
  std::uint32_t magic = kFrameMagic;
  std::uint16_t version = kFrameVersion;
  FrameKind kind = FrameKind::kMessage;
  Lane lane = Lane::kActors;
  std::uint64_t connection = 0;   // number that the receiver gave this connection in the handshake
  std::uint64_t sequence = 0;     // counts the ordered frames of a lane from 0
  std::uint64_t destination = 0;  // actor of the receiver, or channel
  std::uint64_t source = 0;       // actor of the sender; 0 = anonymous
  std::uint64_t message_id = 0;   // CAF's: request, response, priority
  std::uint64_t type_id = 0;      // Cap'n Proto's
  std::uint32_t metadata_bytes = 0;
  std::uint16_t attachments = 0;
  std::uint16_t flags = 0;       // kInPieces
  std::uint64_t body_bytes = 0;  // of the active message's body, or of its pieces
};
static_assert(std::endian::native == std::endian::little, "the wire is little-endian");
static_assert(sizeof(FrameHeader) == 72 && std::is_trivially_copyable_v<FrameHeader>);
static_assert(offsetof(FrameHeader, connection) == 8 && offsetof(FrameHeader, metadata_bytes) == 56 &&
              offsetof(FrameHeader, body_bytes) == 64);

bool is_ordered(FrameKind kind);

// Of the attachments of one frame. Most have one or two: those take no memory of their own.
using AttachmentSizes = boost::container::small_vector<std::uint64_t, 4>;
using FrameParts = boost::container::small_vector<std::span<const std::byte>, 2>;

// A frame as it came in. `inline_metadata` points into the active message's header.
struct FrameView {
  FrameHeader header;
  AttachmentSizes attachment_sizes;
  std::span<const std::byte> inline_metadata;

  bool in_pieces() const { return header.flags & kInPieces; }
  bool metadata_in_body() const { return inline_metadata.size() != header.metadata_bytes; }
  std::uint64_t payload_bytes() const { return inline_metadata.size() + header.body_bytes; }
};

// Checks everything that can be checked before memory is allocated for the body: magic, version, kind, lengths.
// Errors: kCorruptData, kResourceExhausted (limits frame_bytes, frame_metadata_bytes, attachments).
Result<FrameView> parse_frame(std::span<const std::byte> am_header, std::uint64_t body_bytes, const Limits& limits);

// The credit that a frame costs. Sender and receiver compute the same.
std::uint64_t frame_cost(const FrameHeader& header);

// The memory of one frame on its way out; alive until UCX is done with it.
class FrameBytes {
 public:
  // A frame around `data`. Errors: kResourceExhausted when the peer would refuse it.
  static Result<FrameBytes> of_message(FrameHeader header, MessageDataPtr data, const Limits& limits);
  // REQUIRES: metadata.size() <= kInlineMetadataBytes
  static FrameBytes of_metadata(FrameHeader header, std::span<const std::byte> metadata);
  static FrameBytes of_attachment(FrameHeader header, Attachment attachment);
  // A frame whose body is neither metadata nor an attachment.
  static FrameBytes of_body(FrameHeader header, Attachment body);

  FrameHeader& header() { return *reinterpret_cast<FrameHeader*>(head_.get()); }
  const FrameHeader& header() const { return *reinterpret_cast<const FrameHeader*>(head_.get()); }
  std::span<const std::byte> head() const { return {head_.get(), head_bytes_}; }
  const FrameParts& body() const { return body_; }

 private:
  FrameBytes(const FrameHeader& header, std::span<const std::uint64_t> sizes, std::span<const std::byte> metadata);
  FrameBytes(FrameHeader header, std::span<const std::uint64_t> sizes, Attachment body);

  std::unique_ptr<std::byte[]> head_;
  std::size_t head_bytes_ = 0;
  FrameParts body_;
  MessageDataPtr data_;
  Attachment attachment_;
};

}  // namespace troupe::fabric
