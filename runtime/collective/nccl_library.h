#pragma once

#include <cstddef>
#include <string>

#include "runtime/base/result.h"

namespace troupe::collective {

// NVIDIA's NCCL, which is found when the program runs, not linked: its interface (nccl.h) as far as it is used here, so
// that every build has it, with or without CUDA. A test compares it with the header.

struct NcclComm;  // what ncclComm_t points to

enum class NcclStatus : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

// What the ranks of a group find each other by. Made by one of them.
struct NcclUniqueId {
  char bytes[128];
};

// As it was in version 2.14: later ones take the fields that they have beside these for not given.
struct NcclConfig {
  std::size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;  // no call waits for other ranks: it gives kInProgress, and comm_get_async_error what became of it
};

inline constexpr int kNcclFloat32 = 7;
inline constexpr int kNcclSum = 0;

// The library's functions by their names; streams are cudaStream_t. A test puts its own here.
struct NcclFunctions {
  NcclStatus (*get_version)(int* version) = nullptr;
  NcclStatus (*get_unique_id)(NcclUniqueId* id) = nullptr;
  NcclStatus (*comm_init_rank_config)(NcclComm** comm, int ranks, NcclUniqueId id, int rank,
                                      NcclConfig* config) = nullptr;
  NcclStatus (*comm_abort)(NcclComm* comm) = nullptr;
  NcclStatus (*comm_get_async_error)(NcclComm* comm, NcclStatus* status) = nullptr;
  const char* (*get_error_string)(NcclStatus status) = nullptr;
  const char* (*get_last_error)(NcclComm* comm) = nullptr;
  NcclStatus (*group_start)() = nullptr;
  NcclStatus (*group_end)() = nullptr;
  NcclStatus (*send)(const void* data, std::size_t count, int type, int peer, NcclComm* comm, void* stream) = nullptr;
  NcclStatus (*recv)(void* data, std::size_t count, int type, int peer, NcclComm* comm, void* stream) = nullptr;
  NcclStatus (*all_reduce)(const void* in, void* out, std::size_t count, int type, int operation, NcclComm* comm,
                           void* stream) = nullptr;
  NcclStatus (*all_gather)(const void* in, void* out, std::size_t in_count, int type, NcclComm* comm,
                           void* stream) = nullptr;
};

struct NcclLibrary {
  NcclFunctions functions;
  int version = 0;  // 22703 = 2.27.3
};

std::string nccl_version_text(int version);

// Loads libnccl.so.2, which stays loaded: it has threads of its own. Errors, each with its remedy: it is not there, it
// lacks a function, it is older than 2.18 (the first for CUDA 12 whose groups that do not block are sound).
Result<NcclLibrary> open_nccl();

}  // namespace troupe::collective
