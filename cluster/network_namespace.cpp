#include "cluster/network_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

namespace troupe::cluster {

bool remount_sys() {
  if (unshare(CLONE_NEWNS) != 0) return false;
  if (mount("", "/", "none", MS_SLAVE | MS_REC, nullptr) != 0) return false;
  umount2("/sys", MNT_DETACH);  // fails where nothing is mounted, and then nothing is in the way
  return mount("sysfs", "/sys", "sysfs", 0, nullptr) == 0;
}

Result<void> run_in_network_namespace(const std::string& name, const std::function<Result<void>()>& work) {
  if (name.empty()) return work();
  const std::string path = "/run/netns/" + name;
  const int wanted = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (wanted < 0) {
    return not_found("network namespace " + name + ": " + path + ": " + std::strerror(errno) +
                     "; make it with 'ip netns add " + name + "'");
  }
  Result<void> result;
  // A thread that ends afterwards: one could not leave a mount namespace again without losing its chroot.
  std::thread([&] {
    if (setns(wanted, CLONE_NEWNET) != 0 || !remount_sys()) {
      result = unavailable("network namespace " + name + " cannot be entered: " + std::strerror(errno) +
                           "; it needs root (CAP_SYS_ADMIN)");
    } else {
      result = work();
    }
  }).join();
  close(wanted);
  return result;
}

}  // namespace troupe::cluster
