#pragma once

#include <memory>

#include "cluster/launch/launcher.h"

namespace troupe::cluster {

// Starts processes on this machine by fork and exec, each in a process group of its own (a terminal's Ctrl-C reaches
// only the launcher, which then drains them) and, if the node names one, in a network namespace.
// Needs Linux 5.4 (pidfds). Errors: no more threads or file descriptors.
Result<std::unique_ptr<Launcher>> make_local_launcher();

}  // namespace troupe::cluster
