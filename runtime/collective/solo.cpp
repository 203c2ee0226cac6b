#include "runtime/collective/solo.h"

#include <algorithm>
#include <cassert>
#include <mutex>
#include <optional>
#include <string>

namespace troupe::collective {
namespace {

class SoloCommunicator : public Communicator {
 public:
  std::uint32_t rank() const override { return 0; }
  std::uint32_t world_size() const override { return 1; }

  Result<void> all_reduce(std::span<float>) override { return check(); }
  Result<void> all_gather(std::span<const float> in, std::span<float> out) override { return copy(in, out); }
  Result<void> reduce_scatter(std::span<const float> in, std::span<float> out) override { return copy(in, out); }
  Result<void> all_to_all(std::span<const float> in, std::span<float> out) override { return copy(in, out); }
  Result<void> gather(std::span<const float> in, std::span<float> out, [[maybe_unused]] std::uint32_t root) override {
    assert(root == 0);
    return copy(in, out);
  }

  Result<void> check() override {
    const std::lock_guard lock(mutex_);
    if (reason_) return cancelled("the group was aborted: " + *reason_);
    return {};
  }

  void abort(std::string_view reason) override {
    const std::lock_guard lock(mutex_);
    if (!reason_) reason_ = reason;
  }

 private:
  Result<void> copy(std::span<const float> in, std::span<float> out) {
    assert(in.size() == out.size());
    TROUPE_RETURN_IF_ERROR(check());
    if (in.data() != out.data()) std::ranges::copy(in, out.begin());
    return {};
  }

  std::mutex mutex_;
  std::optional<std::string> reason_;  // of the abort; guarded by mutex_
};

}  // namespace

std::unique_ptr<Communicator> make_solo_communicator() { return std::make_unique<SoloCommunicator>(); }

}  // namespace troupe::collective
