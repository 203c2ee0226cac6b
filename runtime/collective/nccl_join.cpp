#include "runtime/collective/nccl_join.h"

#include <thread>
#include <utility>

namespace troupe::collective {
namespace {

constexpr std::chrono::milliseconds kPollInterval(1);  // joining takes some 100 of them

// A member of a group of NCCL's, which leaves it unless somebody takes it.
class Membership {
 public:
  explicit Membership(const NcclFunctions& nccl) : nccl_(nccl) {}
  ~Membership() {
    if (comm_ != nullptr) nccl_.comm_abort(comm_);
  }
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  // Why it has not joined; empty if it has. Errors: of `host`, which knows of a peer that is gone.
  Result<std::string> join(const NcclUniqueId& id, Communicator& host, std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    NcclConfig config;
    NcclStatus status = nccl_.comm_init_rank_config(&comm_, static_cast<int>(host.world_size()), id,
                                                    static_cast<int>(host.rank()), &config);
    while (status == NcclStatus::kInProgress) {
      if (const auto asked = nccl_.comm_get_async_error(comm_, &status); asked != NcclStatus::kSuccess) status = asked;
      if (status != NcclStatus::kInProgress) break;
      TROUPE_RETURN_IF_ERROR(host.check());
      if (std::chrono::steady_clock::now() >= deadline) {
        return "NCCL has not connected the ranks within " + std::to_string(timeout.count()) +
               " ms (limit nccl_join_timeout_ms)";
      }
      std::this_thread::sleep_for(kPollInterval);
    }
    if (status == NcclStatus::kSuccess) return std::string();
    const char* const more = comm_ == nullptr ? nullptr : nccl_.get_last_error(comm_);
    std::string text = std::string("NCCL cannot connect the ranks: ") + nccl_.get_error_string(status);
    if (more != nullptr && *more != '\0') text += " (" + std::string(more) + ")";
    return text;
  }

  NcclComm* take() { return std::exchange(comm_, nullptr); }

 private:
  const NcclFunctions& nccl_;
  NcclComm* comm_ = nullptr;
};

}  // namespace

Result<NcclJoined> join_nccl(std::unique_ptr<Communicator> host, const NcclMember& own, const NcclFunctions* nccl,
                             kernels::DeviceMemory& memory, const NcclJoinOptions& options) {
  TROUPE_ASSIGN_OR_RETURN(NcclAgreement agreement, agree_on_nccl(*host, own, nccl, options.agreement_timeout));
  if (!agreement.id) return NcclJoined{.nccl = {}, .host = std::move(host), .text = std::move(agreement.text)};

  Membership membership(*nccl);
  TROUPE_ASSIGN_OR_RETURN(const std::string own_failure, membership.join(*agreement.id, *host, options.join_timeout));
  // The last rank may have needed all of the time.
  TROUPE_ASSIGN_OR_RETURN(const std::string failure,
                          first_failure(*host, own_failure, options.join_timeout + options.agreement_timeout));
  if (!failure.empty()) {
    return NcclJoined{
        .nccl = {},
        .host = std::move(host),
        .text = failure + "; NCCL_DEBUG=INFO shows what it waits for, TROUPE_NCCL=off does without trying"};
  }
  TROUPE_ASSIGN_OR_RETURN(auto group,
                          make_nccl_communicator(*nccl, membership.take(), std::move(host), memory, options.group));
  return NcclJoined{.nccl = std::move(group), .host = {}, .text = std::move(agreement.text)};
}

}  // namespace troupe::collective
