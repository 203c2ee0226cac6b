#include "runtime/fabric/remote_actor.h"

#include <caf/actor_cast.hpp>

#include "runtime/fabric/endpoint.h"

namespace troupe::fabric {

RemoteActor::RemoteActor(caf::actor_config& config, std::shared_ptr<Endpoint> endpoint)
    : caf::actor_proxy(config), endpoint_(std::move(endpoint)) {}

void RemoteActor::enqueue(caf::mailbox_element_ptr element, caf::execution_unit*) {
  endpoint_->send(id(), std::move(element));
}

void RemoteActor::attach(caf::attachable_ptr attachable) {
  caf::actor_proxy::attach(std::move(attachable));
  if (!is_monitored_.exchange(true)) {
    endpoint_->send_control(FrameKind::kMonitor, caf::strong_actor_ptr(ctrl()), nullptr);
  }
}

bool RemoteActor::add_backlink(caf::abstract_actor* other) {
  if (!caf::actor_proxy::add_backlink(other)) return false;
  endpoint_->send_control(FrameKind::kLink, caf::strong_actor_ptr(ctrl()), caf::strong_actor_ptr(other->ctrl()));
  return true;
}

bool RemoteActor::remove_backlink(caf::abstract_actor* other) {
  if (!caf::actor_proxy::remove_backlink(other)) return false;
  endpoint_->send_control(FrameKind::kUnlink, caf::strong_actor_ptr(ctrl()), caf::strong_actor_ptr(other->ctrl()));
  return true;
}

void RemoteActor::kill_proxy(caf::execution_unit* unit, caf::error reason) { cleanup(std::move(reason), unit); }

}  // namespace troupe::fabric
