#pragma once

#include <caf/actor_system.hpp>

#include <memory>

#include "runtime/base/limits.h"
#include "runtime/fabric/counters.h"
#include "runtime/fabric/exports.h"
#include "runtime/fabric/message_types.h"
#include "runtime/fabric/task_queue.h"

namespace troupe::fabric {

// What all endpoints of one fabric share.
struct FabricContext {
  caf::actor_system& system;
  Limits limits;
  MessageTypes types;
  std::shared_ptr<TaskQueue> tasks;
  std::shared_ptr<Exports> exports;
  std::shared_ptr<Counters> counters;
};

}  // namespace troupe::fabric
