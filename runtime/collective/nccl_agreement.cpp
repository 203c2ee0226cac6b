#include "runtime/collective/nccl_agreement.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "runtime/base/log.h"

namespace troupe::collective {
namespace {

// Aborts a group unless it is gone in time.
class AbortAfter {
 public:
  AbortAfter(Communicator& group, std::chrono::milliseconds timeout)
      : timer_([this, &group, timeout](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          changed_.wait_for(lock, stop, timeout, [] { return false; });
          if (stop.stop_requested()) return;
          group.abort("the ranks did not agree on how to exchange within " + std::to_string(timeout.count()) + " ms");
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::jthread timer_;
};

// What ranks tell each other. Plain bytes, of ranks of one program; texts are cut and end with a zero.
struct Introduction {
  std::uint64_t gpu;
  std::int32_t version;
  char why_not[244];
};
struct Invitation {
  NcclUniqueId id;
  char why_none[128];
};
struct Failure {
  char text[256];
};

template <std::size_t size>
void write_text(const std::string& text, char (&to)[size]) {
  std::memcpy(to, text.data(), std::min(text.size(), size - 1));
}
template <std::size_t size>
std::string read_text(const char (&from)[size]) {
  return one_line(std::string_view(from, ::strnlen(from, size)), size);
}

// What every rank has, by rank. A group carries floats, and no bits of a float that is only carried are touched; a byte
// each is beyond doubt.
template <class T>
Result<std::vector<T>> exchange(Communicator& group, const T& own) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::array<unsigned char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &own, sizeof(T));
  const std::vector<float> out(bytes.begin(), bytes.end());
  std::vector<float> in(group.world_size() * sizeof(T));
  TROUPE_RETURN_IF_ERROR(group.all_gather(out, in));
  std::vector<T> all(group.world_size());
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    std::transform(in.begin() + rank * sizeof(T), in.begin() + (rank + 1) * sizeof(T), bytes.begin(),
                   [](float byte) { return static_cast<unsigned char>(std::clamp(byte, 0.0f, 255.0f)); });
    std::memcpy(&all[rank], bytes.data(), sizeof(T));
  }
  return all;
}

}  // namespace

std::optional<std::string> why_no_nccl(std::span<const NcclMember> members) {
  const auto rank = [](std::size_t number) { return "rank " + std::to_string(number); };
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (!members[i].why_not.empty()) return rank(i) + ": " + members[i].why_not;
  }
  for (std::size_t i = 0; i < members.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (members[j].gpu == members[i].gpu)
        return "ranks " + std::to_string(j) + " and " + std::to_string(i) + " share a GPU";
    }
    if (members[i].version != members[0].version) {
      return rank(0) + " has NCCL " + nccl_version_text(members[0].version) + " and " + rank(i) + " has " +
             nccl_version_text(members[i].version) + "; install the same one for both";
    }
  }
  return std::nullopt;
}

Result<NcclAgreement> agree_on_nccl(Communicator& host, const NcclMember& own, const NcclFunctions* nccl,
                                    std::chrono::milliseconds timeout) {
  assert(nccl != nullptr || !own.why_not.empty());
  const AbortAfter deadline(host, timeout);
  Introduction introduction{.gpu = own.gpu, .version = own.version, .why_not = {}};
  write_text(own.why_not, introduction.why_not);
  TROUPE_ASSIGN_OR_RETURN(const std::vector<Introduction> introductions, exchange(host, introduction));
  std::vector<NcclMember> members;
  for (const Introduction& from : introductions) members.push_back({from.gpu, from.version, read_text(from.why_not)});
  if (auto reason = why_no_nccl(members)) return NcclAgreement{.id = {}, .text = *std::move(reason)};

  Invitation invitation{};
  if (host.rank() == 0) {
    if (const NcclStatus made = nccl->get_unique_id(&invitation.id); made != NcclStatus::kSuccess) {
      write_text(std::string("NCCL cannot start: ") + nccl->get_error_string(made) + "; NCCL_DEBUG=INFO shows more",
                 invitation.why_none);
    }
  }
  TROUPE_ASSIGN_OR_RETURN(const std::vector<Invitation> invitations, exchange(host, invitation));
  if (std::string why_none = read_text(invitations[0].why_none); !why_none.empty()) {
    return NcclAgreement{.id = {}, .text = std::move(why_none)};
  }
  return NcclAgreement{.id = invitations[0].id, .text = "NCCL " + nccl_version_text(own.version)};
}

Result<std::string> first_failure(Communicator& host, const std::string& own, std::chrono::milliseconds timeout) {
  const AbortAfter deadline(host, timeout);
  Failure failure{};
  write_text(own, failure.text);
  TROUPE_ASSIGN_OR_RETURN(const std::vector<Failure> failures, exchange(host, failure));
  for (std::size_t rank = 0; rank < failures.size(); ++rank) {
    if (auto text = read_text(failures[rank].text); !text.empty()) return "rank " + std::to_string(rank) + ": " + text;
  }
  return std::string();
}

}  // namespace troupe::collective
