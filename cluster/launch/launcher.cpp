#include "cluster/launch/launcher.h"

#include <cstring>

namespace troupe::cluster {

std::string ProcessExit::to_string() const {
  if (signal == 0) return "ended with exit code " + std::to_string(code);
  const char* name = sigdescr_np(signal);
  return "was killed by signal " + std::to_string(signal) + " (" + (name != nullptr ? name : "unknown") + ")";
}

}  // namespace troupe::cluster
