#include "runtime/collective/nccl_library.h"

#include <dlfcn.h>

namespace troupe::collective {
namespace {

constexpr const char* kLibrary = "libnccl.so.2";
constexpr int kMinVersion = 21800;

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

Result<NcclFunctions> find_all(void* library) {
  NcclFunctions f;
  if (find(library, "ncclGetVersion", f.get_version) && find(library, "ncclGetUniqueId", f.get_unique_id) &&
      find(library, "ncclCommInitRankConfig", f.comm_init_rank_config) &&
      find(library, "ncclCommAbort", f.comm_abort) && find(library, "ncclCommGetAsyncError", f.comm_get_async_error) &&
      find(library, "ncclGetErrorString", f.get_error_string) && find(library, "ncclGetLastError", f.get_last_error) &&
      find(library, "ncclGroupStart", f.group_start) && find(library, "ncclGroupEnd", f.group_end) &&
      find(library, "ncclSend", f.send) && find(library, "ncclRecv", f.recv) &&
      find(library, "ncclAllReduce", f.all_reduce) && find(library, "ncclAllGather", f.all_gather)) {
    return f;
  }
  return unavailable(std::string(kLibrary) + " lacks a function (" + ::dlerror() + "): install NCCL " +
                     nccl_version_text(kMinVersion) + " or newer");
}

}  // namespace

std::string nccl_version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}

Result<NcclLibrary> open_nccl() {
  void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return unavailable("NCCL cannot be loaded (" + std::string(::dlerror()) + "): install " + kLibrary +
                       ", or put its folder into LD_LIBRARY_PATH");
  }
  NcclLibrary nccl;
  TROUPE_ASSIGN_OR_RETURN(nccl.functions, find_all(library));
  if (const NcclStatus status = nccl.functions.get_version(&nccl.version); status != NcclStatus::kSuccess) {
    return unavailable(std::string(kLibrary) +
                       " does not tell its version: " + nccl.functions.get_error_string(status));
  }
  if (nccl.version < kMinVersion) {
    return unsupported("NCCL " + nccl_version_text(nccl.version) + " is too old: install " +
                       nccl_version_text(kMinVersion) + " or newer");
  }
  return nccl;
}

}  // namespace troupe::collective
