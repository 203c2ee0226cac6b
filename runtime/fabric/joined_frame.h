#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/fabric/frame.h"

namespace troupe::fabric {

// Small frames that wait for one peer together, on their way as one active message: over TCP UCX makes a system call
// for each, which costs more than all that the fabric does with a small message.
//
// A kJoined frame's body holds records of {u32 head bytes, u32 body bytes, head, body}, each padded to 8 bytes. Every
// record is an ordered frame with a sequence and a cost of its own, as if it had come alone, and none is in pieces.
class FrameJoiner {
 public:
  bool empty() const { return frames_.empty(); }
  // Whether the frame may go together with those that are here.
  bool fits(const FrameBytes& frame) const;
  void add(FrameBytes frame);
  // What is to be sent: the frame itself when it is the only one. Empties the joiner. REQUIRES: !empty()
  FrameBytes take();

 private:
  std::vector<FrameBytes> frames_;
  std::size_t bytes_ = 0;
};

struct FrameRecord {
  std::span<const std::byte> head;
  std::span<const std::byte> body;
};

// Calls `each` with every record of a kJoined frame's body, in order, until it returns false.
// Errors: kCorruptData when a record does not lie in the body; those before it were visited.
Result<void> for_each_record(std::span<const std::byte> joined, const std::function<bool(const FrameRecord&)>& each);

}  // namespace troupe::fabric
