#include "actors/device_group.h"

#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "actors/names.h"
#include "kernels/cuda/gpu.h"
#include "runtime/base/log.h"
#include "runtime/collective/nccl_join.h"
#include "runtime/collective/nccl_library.h"
#include "runtime/model/staged_communicator.h"

namespace troupe {
namespace {

using std::chrono::milliseconds;

Result<collective::NcclLibrary> usable_nccl(const kernels::Gpu& gpu) {
  const char* wanted = std::getenv("TROUPE_NCCL");
  if (wanted != nullptr && std::string_view(wanted) == "off") return unavailable("TROUPE_NCCL=off");
  if (gpu.stream().is_emulated) return unsupported("its GPU is emulated");
  return collective::open_nccl();
}

collective::NcclMember member_of(const kernels::Gpu& gpu, const Result<collective::NcclLibrary>& nccl) {
  collective::NcclMember member{.gpu = gpu.properties().unique_id, .version = 0, .why_not = {}};
  if (nccl.ok()) {
    member.version = nccl->version;
  } else {
    member.why_not = nccl.error().message;
  }
  return member;
}

}  // namespace

Result<std::unique_ptr<collective::Communicator>> join_device_group(std::unique_ptr<collective::Communicator> host,
                                                                    schema::ShardSpec::Reader spec,
                                                                    kernels::DeviceMemory& memory,
                                                                    const Limits& limits) {
  using Exchange = schema::ShardSpec::Exchange;
  if (host->world_size() == 1) return host;
  const auto log = [&, is_first = host->rank() == 0](spdlog::level::level_enum level, const std::string& how) {
    if (is_first) spdlog::log(level, "group of {}: {}", stage_name(spec.getReplica(), spec.getStage()), how);
  };
  std::string why_staged = one_line(spec.getExchangeReason().cStr());
  if (spec.getExchange() == Exchange::NCCL) {
    kernels::Gpu* const gpu = memory.gpu_or_null();
    if (gpu == nullptr) return invalid_argument("the plan has NCCL for a rank that computes on no GPU", "exchange");
    const Result<collective::NcclLibrary> nccl = usable_nccl(*gpu);
    const collective::NcclJoinOptions options = {.agreement_timeout = milliseconds(limits.connect_timeout_ms),
                                                 .join_timeout = milliseconds(limits.nccl_join_timeout_ms),
                                                 .group = {.timeout = milliseconds(limits.step_timeout_ms)}};
    TROUPE_ASSIGN_OR_RETURN(collective::NcclJoined joined,
                            collective::join_nccl(std::move(host), member_of(*gpu, nccl),
                                                  nccl.ok() ? &nccl->functions : nullptr, memory, options));
    if (joined.nccl) {
      log(spdlog::level::info, joined.text);
      return std::move(joined.nccl);
    }
    host = std::move(joined.host);
    why_staged = std::move(joined.text);
  }
  // That ranks could be faster is worth a warning; that they are as planned is not.
  if (spec.getExchange() != Exchange::HOST) {
    log(spec.getExchange() == Exchange::NCCL ? spdlog::level::warn : spdlog::level::info,
        "staged through the host: " + why_staged);
  }
  if (memory.is_host()) return host;
  return model::make_staged_communicator(std::move(host), memory);
}

}  // namespace troupe
