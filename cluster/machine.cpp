#include "cluster/machine.h"

#include <sched.h>
#include <unistd.h>

#include <fstream>
#include <utility>

namespace troupe::cluster {
namespace {

std::uint64_t main_memory_bytes() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page_bytes = ::sysconf(_SC_PAGESIZE);
  std::uint64_t bytes = pages > 0 && page_bytes > 0 ? static_cast<std::uint64_t>(pages) * page_bytes : 0;
  // Of a container; "max", which is no number, where there is no limit.
  std::uint64_t limit = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit && (bytes == 0 || limit < bytes)) bytes = limit;
  return bytes;
}

}  // namespace

Machine this_machine(bool with_gpus) {
  Machine machine;
  if (with_gpus) {
    if (auto gpus = kernels::list_gpus(); gpus.ok()) {
      machine.gpus = *std::move(gpus);
    } else {
      machine.why_no_gpus = gpus.error().message;
    }
  }
  machine.memory_bytes = main_memory_bytes();
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return machine;
  machine.cores.clear();
  for (std::uint32_t core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) machine.cores.push_back(core);
  }
  return machine;
}

}  // namespace troupe::cluster
