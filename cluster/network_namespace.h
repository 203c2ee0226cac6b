#pragma once

#include <functional>
#include <string>

#include "runtime/base/result.h"

namespace troupe::cluster {

// Calls `work` in a thread that lives in a named network namespace of this machine (`ip netns add NAME`), and waits
// for it; threads that `work` starts stay there, the caller does not move. An empty name calls it right here.
// Errors: no such namespace, no right to enter it (CAP_SYS_ADMIN), or those of `work`.
Result<void> run_in_network_namespace(const std::string& name, const std::function<Result<void>()>& work);

// Gives the calling thread its own view of /sys, which shows the interfaces of its network namespace: /sys belongs to
// the namespace of whoever mounted it, and UCX lists the interfaces it finds there. False: errno says why.
// Async-signal-safe.
bool remount_sys();

}  // namespace troupe::cluster
