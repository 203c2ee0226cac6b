#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "runtime/collective/nccl_library.h"

namespace troupe::collective {

// What a rank brings to a group over NCCL.
struct NcclMember {
  std::uint64_t gpu = 0;  // unique_id of its GPU
  int version = 0;        // of its library
  std::string why_not;    // for people, where it cannot take part; else empty
};

// Why these ranks, in their order, cannot be a group over NCCL: one of them cannot, two have one GPU, or their
// libraries differ, which NCCL does not allow. Nothing if they can.
std::optional<std::string> why_no_nccl(std::span<const NcclMember> members);

struct NcclAgreement {
  std::optional<NcclUniqueId> id;  // of the group to join; nothing: no NCCL
  std::string text;                // for people: "NCCL 2.27.3", or why not
};

// Every rank calls it at the same time and comes to the same agreement: they tell each other of themselves over `host`,
// and rank 0 makes the id if they can. `nccl` may be null where own.why_not says so.
// Errors: of `host`, which is aborted when the ranks have not agreed after `timeout`.
Result<NcclAgreement> agree_on_nccl(Communicator& host, const NcclMember& own, const NcclFunctions* nccl,
                                    std::chrono::milliseconds timeout);

// Every rank calls it at the same time, with what it has failed of, or nothing: all get "rank N: " and the failure of
// the first rank that has one, or nothing. Errors: as above.
Result<std::string> first_failure(Communicator& host, const std::string& own, std::chrono::milliseconds timeout);

}  // namespace troupe::collective
