#include "runtime/fabric/credit_return.h"

#include <algorithm>

#include "runtime/fabric/endpoint.h"

namespace troupe::fabric {
namespace {

// Credit goes back in pieces of this share, unless the peer asks for it.
constexpr std::uint64_t kCreditShare = 8;

class CreditTask final : public Task {
 public:
  CreditTask(std::shared_ptr<Endpoint> endpoint, Lane lane) : endpoint_(std::move(endpoint)), lane_(lane) {}
  void run(std::unique_ptr<Task>) override { endpoint_->return_credit(lane_); }

 private:
  std::shared_ptr<Endpoint> endpoint_;
  Lane lane_;
};

}  // namespace

CreditReturn::CreditReturn(std::weak_ptr<Endpoint> endpoint, Lane lane, const FabricContext& context)
    : endpoint_(std::move(endpoint)),
      lane_(lane),
      threshold_(std::max<std::uint64_t>(1, context.limits.credit_bytes / kCreditShare)),
      tasks_(context.tasks),
      counters_(context.counters) {}

void CreditReturn::buffer_released(std::uint64_t charge) noexcept {
  Counters::subtract(counters_->unreleased_bytes, charge);
  auto before = released_.fetch_add(charge, std::memory_order_seq_cst);
  bool crosses = before < threshold_ && before + charge >= threshold_;
  if (!crosses && !(wanted_.load(std::memory_order_seq_cst) && wanted_.exchange(false))) return;
  if (auto endpoint = endpoint_.lock()) tasks_->push(std::make_unique<CreditTask>(std::move(endpoint), lane_));
}

void CreditReturn::hold(std::uint64_t charge) {
  outstanding_ += charge;
  Counters::add(counters_->unreleased_bytes, charge);
}

std::uint64_t CreditReturn::take() {
  auto bytes = released_.exchange(0, std::memory_order_seq_cst);
  outstanding_ -= bytes;
  return bytes;
}

bool CreditReturn::want() {
  // Either this sees the release, or the releaser sees the wish.
  wanted_.store(true, std::memory_order_seq_cst);
  if (released_.load(std::memory_order_seq_cst) == 0) return false;
  wanted_.store(false, std::memory_order_relaxed);
  return true;
}

}  // namespace troupe::fabric
