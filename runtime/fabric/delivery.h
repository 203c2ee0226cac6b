#pragma once

#include <memory>

#include "runtime/fabric/connection.h"
#include "runtime/fabric/pieces.h"
#include "runtime/fabric/progress.h"

namespace troupe::fabric {

// Brings what a proved peer sent to the actors and channels it is for. The fabric's thread only.
class Delivery {
 public:
  Delivery(std::shared_ptr<FabricContext> context, std::shared_ptr<InlineUnit> unit)
      : context_(std::move(context)), unit_(std::move(unit)) {}

  // Errors (kCorruptData): the frame is broken, its connection must be closed. A frame for an actor that is not
  // here is no error of the peer: it is counted, and answered if it was a request.
  Result<void> deliver(Endpoint& peer, Arrival& arrival);

 private:
  struct Addressed {
    caf::strong_actor_ptr actor;
    caf::strong_actor_ptr sender;  // null for anonymous messages
    caf::message_id id;
  };

  std::optional<Addressed> address(Endpoint& peer, const FrameHeader& header);
  Result<void> message(Endpoint& peer, Arrival& arrival);
  void exit(Endpoint& peer, const FrameHeader& header, caf::error reason);
  void watch(Endpoint& peer, std::uint64_t number);
  void link(Endpoint& peer, const FrameHeader& header);
  void unlink(Endpoint& peer, const FrameHeader& header);
  void enqueue(const caf::strong_actor_ptr& actor, caf::mailbox_element_ptr element);

  std::shared_ptr<FabricContext> context_;
  std::shared_ptr<InlineUnit> unit_;
};

}  // namespace troupe::fabric
