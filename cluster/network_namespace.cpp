#include "cluster/network_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace troupe::cluster {

Result<NetworkNamespaceGuard> NetworkNamespaceGuard::enter(const std::string& name) {
  if (name.empty()) return NetworkNamespaceGuard(-1);
  const std::string path = "/run/netns/" + name;
  const int wanted = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (wanted < 0) {
    return not_found("network namespace " + name + ": " + path + ": " + std::strerror(errno) +
                     "; make it with 'ip netns add " + name + "'");
  }
  const int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  const bool entered = own >= 0 && setns(wanted, CLONE_NEWNET) == 0;
  const int error = errno;
  close(wanted);
  if (!entered) {
    if (own >= 0) close(own);
    return unavailable("network namespace " + name + " cannot be entered: " + std::strerror(error) +
                       "; it needs root (CAP_SYS_ADMIN)");
  }
  return NetworkNamespaceGuard(own);
}

NetworkNamespaceGuard::NetworkNamespaceGuard(NetworkNamespaceGuard&& other) noexcept
    : own_namespace_(std::exchange(other.own_namespace_, -1)) {}

NetworkNamespaceGuard::~NetworkNamespaceGuard() {
  if (own_namespace_ < 0) return;
  setns(own_namespace_, CLONE_NEWNET);
  close(own_namespace_);
}

}  // namespace troupe::cluster
