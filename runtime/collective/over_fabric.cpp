#include "runtime/collective/over_fabric.h"

#include <algorithm>
#include <cassert>
#include <mutex>
#include <string>

#include "runtime/collective/rank_order.h"

namespace troupe::collective {
namespace {

// Below this an operation's latency counts more than its bytes.
constexpr std::size_t kExchangeWholeBytes = 32 << 10;

class OverFabric final : public Communicator {
 public:
  OverFabric(std::uint32_t rank, std::vector<std::unique_ptr<Link>> links, std::chrono::milliseconds timeout)
      : rank_(rank), links_(std::move(links)), timeout_(timeout) {}

  std::uint32_t rank() const override { return rank_; }
  std::uint32_t world_size() const override { return static_cast<std::uint32_t>(links_.size()); }

  Result<void> check() override {
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer == rank_) continue;
      if (auto checked = links_[peer]->check(); !checked.ok()) return explained(std::move(checked).error(), peer);
    }
    return {};
  }

  void abort(std::string_view reason) override {
    {
      std::lock_guard lock(abort_mutex_);
      if (abort_reason_.empty()) abort_reason_ = reason.empty() ? "aborted" : std::string(reason);
    }
    for (const auto& link : links_) {
      if (link) link->abort();
    }
  }

  Result<void> all_reduce(std::span<float> data) override {
    if (world_size() == 1 || data.empty()) return {};
    const bool whole = world_size() == 2 || data.size_bytes() <= kExchangeWholeBytes;
    return whole || data.size() % world_size() != 0 ? all_reduce_whole(data) : all_reduce_in_parts(data);
  }

  Result<void> all_gather(std::span<const float> in, std::span<float> out) override {
    assert(out.size() == in.size() * world_size());
    TROUPE_RETURN_IF_ERROR(send_to_all(in));
    std::copy(in.begin(), in.end(), out.begin() + rank_ * in.size());
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer != rank_) TROUPE_RETURN_IF_ERROR(receive(peer, out.subspan(peer * in.size(), in.size())));
    }
    return {};
  }

  Result<void> reduce_scatter(std::span<const float> in, std::span<float> out) override {
    assert(in.size() == out.size() * world_size());
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer != rank_) TROUPE_RETURN_IF_ERROR(send(peer, in.subspan(peer * out.size(), out.size())));
    }
    return sum_with_peers(in.subspan(rank_ * out.size(), out.size()), out);
  }

  Result<void> all_to_all(std::span<const float> in, std::span<float> out) override {
    assert(in.size() == out.size() && in.size() % world_size() == 0);
    const std::size_t part = in.size() / world_size();
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer != rank_) TROUPE_RETURN_IF_ERROR(send(peer, in.subspan(peer * part, part)));
    }
    std::copy_n(in.begin() + rank_ * part, part, out.begin() + rank_ * part);
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer != rank_) TROUPE_RETURN_IF_ERROR(receive(peer, out.subspan(peer * part, part)));
    }
    return {};
  }

  Result<void> gather(std::span<const float> in, std::span<float> out, std::uint32_t root) override {
    if (rank_ != root) return send(root, in);
    assert(out.size() == in.size() * world_size());
    std::copy(in.begin(), in.end(), out.begin() + rank_ * in.size());
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer != rank_) TROUPE_RETURN_IF_ERROR(receive(peer, out.subspan(peer * in.size(), in.size())));
    }
    return {};
  }

 private:
  Result<void> all_reduce_whole(std::span<float> data) {
    TROUPE_RETURN_IF_ERROR(send_to_all(data));
    own_.assign(data.begin(), data.end());
    return sum_with_peers(own_, data);
  }

  Result<void> all_reduce_in_parts(std::span<float> data) {
    part_.resize(data.size() / world_size());
    TROUPE_RETURN_IF_ERROR(reduce_scatter(data, part_));
    return all_gather(part_, data);
  }

  // out = sum over ranks; this rank's addend is `own`, the others' arrive. own and out do not overlap.
  Result<void> sum_with_peers(std::span<const float> own, std::span<float> out) {
    received_.resize(world_size() * out.size());
    parts_.resize(world_size());
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer == rank_) {
        parts_[peer] = own;
        continue;
      }
      const auto part = std::span(received_).subspan(peer * out.size(), out.size());
      TROUPE_RETURN_IF_ERROR(receive(peer, part));
      parts_[peer] = part;
    }
    sum_in_rank_order(parts_, out);
    return {};
  }

  Result<void> send_to_all(std::span<const float> data) {
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      if (peer != rank_) TROUPE_RETURN_IF_ERROR(send(peer, data));
    }
    return {};
  }

  Result<void> send(std::uint32_t peer, std::span<const float> data) {
    auto sent = links_[peer]->send(std::as_bytes(data));
    if (!sent.ok()) return explained(std::move(sent).error(), peer);
    return {};
  }

  Result<void> receive(std::uint32_t peer, std::span<float> data) {
    auto received = links_[peer]->receive(std::as_writable_bytes(data), timeout_);
    if (!received.ok()) return explained(std::move(received).error(), peer);
    return {};
  }

  // A link knows that it was aborted, but not why.
  Error explained(Error error, std::uint32_t peer) {
    std::lock_guard lock(abort_mutex_);
    if (error.code == ErrorCode::kCancelled && !abort_reason_.empty()) return cancelled(abort_reason_);
    return std::move(error).within("rank " + std::to_string(peer));
  }

  std::uint32_t rank_;
  std::vector<std::unique_ptr<Link>> links_;  // by rank; the own one is null
  std::chrono::milliseconds timeout_;
  std::mutex abort_mutex_;
  std::string abort_reason_;  // guarded by abort_mutex_
  // Scratch that keeps its memory from step to step.
  std::vector<float> own_;
  std::vector<float> part_;
  std::vector<float> received_;                // (world_size, elements)
  std::vector<std::span<const float>> parts_;  // (world_size)
};

}  // namespace

std::unique_ptr<Communicator> make_group_over_fabric(std::uint32_t rank, std::vector<std::unique_ptr<Link>> links,
                                                     std::chrono::milliseconds timeout) {
  assert(rank < links.size());
  return std::make_unique<OverFabric>(rank, std::move(links), timeout);
}

}  // namespace troupe::collective
