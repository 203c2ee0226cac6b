#pragma once

#include <string>

#include "runtime/base/result.h"

namespace troupe::cluster {

// Lets the calling thread, and the threads that it starts meanwhile, live in a named network namespace of this
// machine (`ip netns add NAME`); its own one is back when the guard dies. One thread.
class NetworkNamespaceGuard {
 public:
  // An empty name stays where we are. Errors: no such namespace, no right to enter it (CAP_SYS_ADMIN).
  static Result<NetworkNamespaceGuard> enter(const std::string& name);

  NetworkNamespaceGuard(NetworkNamespaceGuard&& other) noexcept;
  NetworkNamespaceGuard& operator=(NetworkNamespaceGuard&&) = delete;
  ~NetworkNamespaceGuard();

 private:
  explicit NetworkNamespaceGuard(int own_namespace) : own_namespace_(own_namespace) {}

  int own_namespace_;  // file descriptor of the namespace to go back to, or -1
};

}  // namespace troupe::cluster
