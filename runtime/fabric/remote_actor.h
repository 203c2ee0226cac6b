#pragma once

#include <caf/actor_proxy.hpp>

#include <atomic>
#include <memory>

namespace troupe::fabric {

class Endpoint;

// The handle of an actor elsewhere. What is enqueued here becomes a frame to the actor's node; what happens to the
// actor or its node comes back through kill_proxy.
// Thread-safety: all functions, from any thread.
class RemoteActor final : public caf::actor_proxy {
 public:
  RemoteActor(caf::actor_config& config, std::shared_ptr<Endpoint> endpoint);

  void enqueue(caf::mailbox_element_ptr element, caf::execution_unit*) override;
  void attach(caf::attachable_ptr attachable) override;
  // Called with this actor's and the other's mutex held: they only push to the fabric's queue.
  bool add_backlink(caf::abstract_actor* other) override;
  bool remove_backlink(caf::abstract_actor* other) override;
  void kill_proxy(caf::execution_unit* unit, caf::error reason) override;
  const char* name() const override { return "troupe.remote_actor"; }

 private:
  std::shared_ptr<Endpoint> endpoint_;
  std::atomic<bool> is_monitored_{false};  // asks the peer only for the first monitor
};

}  // namespace troupe::fabric
