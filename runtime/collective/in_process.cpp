#include "runtime/collective/in_process.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "runtime/base/relax.h"
#include "runtime/collective/rank_order.h"

namespace troupe::collective {
namespace {

enum class Operation : std::uint8_t { kAllReduce, kAllGather, kReduceScatter, kAllToAll, kGather };

constexpr const char* kOperationNames[] = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "gather"};

// What a rank lays out for the others in one operation.
struct Staged {
  Operation operation = Operation::kAllReduce;
  std::size_t size = 0;
  std::vector<float> data;  // (at least size)
};

// The memory and the meeting point of one group.
//
// Each operation stages a rank's input, meets once, and then reads what the others staged. Staging alternates between
// two sets: operation n + 2 overwrites what operation n staged, and a rank can get there only after the meeting of
// operation n + 1, to which every other rank comes only when it has read all it wants of operation n.
class Group {
 public:
  Group(std::uint32_t world_size, const InProcessOptions& options) : options_(options), ranks_(world_size) {}

  void abort(std::string_view reason) {
    std::unique_lock lock(mutex_);
    fail(lock, cancelled("the group was aborted: " + std::string(reason)));
  }

  void leave(std::uint32_t rank) {
    std::unique_lock lock(mutex_);
    fail(lock, unavailable("rank " + std::to_string(rank) + " of " + std::to_string(world_size()) + " has left"));
  }

  const InProcessOptions& options() const { return options_; }
  std::uint32_t world_size() const { return static_cast<std::uint32_t>(ranks_.size()); }

  Result<void> check() {
    if (!failed_.load(std::memory_order_acquire)) return {};
    const std::lock_guard lock(mutex_);
    return *failure_;
  }

  Staged& staged(std::uint32_t rank, unsigned set) { return ranks_[rank].staged[set]; }

  // Waits until every rank has come here `meeting` times, meeting counting from 1. Everything that a rank wrote
  // before is visible to all of them after.
  Result<void> meet(std::uint32_t rank, std::uint64_t meeting, Operation operation) {
    ranks_[rank].meetings.store(meeting, std::memory_order_relaxed);
    if (arrivals_.fetch_add(1, std::memory_order_acq_rel) + 1 == meeting * world_size()) {
      // Under the lock, lest a rank that just found the meeting incomplete falls asleep after the notification.
      const std::lock_guard lock(mutex_);
      completed_.store(meeting, std::memory_order_release);
      changed_.notify_all();
      return {};
    }
    for (std::uint32_t i = 0; i < options_.spin_iterations; ++i) {
      if (completed_.load(std::memory_order_acquire) >= meeting) return {};
      relax();
    }
    const auto until = std::chrono::steady_clock::now() + options_.yielding;
    while (std::chrono::steady_clock::now() < until) {
      if (completed_.load(std::memory_order_acquire) >= meeting) return {};
      std::this_thread::yield();
    }
    std::unique_lock lock(mutex_);
    // A completed meeting counts even where the group failed since: the others have this rank's part already.
    const auto over = [&] { return completed_.load(std::memory_order_acquire) >= meeting || failure_.has_value(); };
    if (!changed_.wait_for(lock, options_.timeout, over)) {
      fail(lock, deadline_exceeded(std::string(kOperationNames[static_cast<int>(operation)]) + ": rank " +
                                   missing_at(meeting) + " of " + std::to_string(world_size()) +
                                   " did not come within " + std::to_string(options_.timeout.count()) + " ms"));
    }
    if (completed_.load(std::memory_order_acquire) >= meeting) return {};
    return *failure_;
  }

  // Ends the group because of a rank's own finding, and returns what the group failed of first.
  Error fail_with(Error error) {
    std::unique_lock lock(mutex_);
    fail(lock, std::move(error));
    return *failure_;
  }

 private:
  struct alignas(64) Rank {
    Staged staged[2];
    std::atomic<std::uint64_t> meetings = 0;
  };

  // The first failure stays: what follows is its consequence.
  void fail(const std::unique_lock<std::mutex>&, Error error) {
    if (!failure_) failure_ = std::move(error);
    failed_.store(true, std::memory_order_release);
    changed_.notify_all();
  }

  std::string missing_at(std::uint64_t meeting) const {
    std::string missing;
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
      if (ranks_[rank].meetings.load(std::memory_order_relaxed) >= meeting) continue;
      missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
    }
    return missing;
  }

  const InProcessOptions options_;
  std::vector<Rank> ranks_;
  alignas(64) std::atomic<std::uint64_t> arrivals_ = 0;   // of all ranks, in all meetings
  alignas(64) std::atomic<std::uint64_t> completed_ = 0;  // meetings
  std::atomic<bool> failed_ = false;                      // as failure_, readable without the lock
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Error> failure_;  // guarded by mutex_
};

class InProcessCommunicator : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<Group> group, std::uint32_t rank)
      : group_(std::move(group)), rank_(rank), parts_(group_->world_size()) {}
  ~InProcessCommunicator() override { group_->leave(rank_); }

  std::uint32_t rank() const override { return rank_; }
  std::uint32_t world_size() const override { return group_->world_size(); }

  Result<void> all_reduce(std::span<float> data) override {
    if (data.size() > group_->options().split_above_floats) return all_reduce_split(data);
    TROUPE_RETURN_IF_ERROR(exchange(Operation::kAllReduce, data));
    sum_slice(0, data);
    return {};
  }

  Result<void> all_gather(std::span<const float> in, std::span<float> out) override {
    assert(out.size() == world_size() * in.size());
    TROUPE_RETURN_IF_ERROR(exchange(Operation::kAllGather, in));
    copy_all(out);
    return {};
  }

  Result<void> reduce_scatter(std::span<const float> in, std::span<float> out) override {
    assert(in.size() == world_size() * out.size());
    TROUPE_RETURN_IF_ERROR(exchange(Operation::kReduceScatter, in));
    sum_slice(rank_ * out.size(), out);
    return {};
  }

  Result<void> all_to_all(std::span<const float> in, std::span<float> out) override {
    assert(in.size() == out.size() && in.size() % world_size() == 0);
    TROUPE_RETURN_IF_ERROR(exchange(Operation::kAllToAll, in));
    const std::size_t part = in.size() / world_size();
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      std::copy_n(received(peer).data.data() + rank_ * part, part, out.data() + peer * part);
    }
    return {};
  }

  Result<void> gather(std::span<const float> in, std::span<float> out, std::uint32_t root) override {
    assert(root < world_size());
    assert(out.size() == (rank_ == root ? world_size() * in.size() : 0));
    TROUPE_RETURN_IF_ERROR(exchange(Operation::kGather, in));
    if (rank_ == root) copy_all(out);
    return {};
  }

  Result<void> check() override { return group_->check(); }
  void abort(std::string_view reason) override { group_->abort(reason); }

 private:
  // Lays out `in`, meets the others, and checks that all of them do the same thing.
  Result<void> exchange(Operation operation, std::span<const float> in) {
    // Before anything is staged: after a failure the ranks no longer meet, so that a slower one may still be reading.
    TROUPE_RETURN_IF_ERROR(group_->check());
    const std::uint64_t meeting = ++meetings_;
    set_ = meeting % 2;
    Staged& mine = group_->staged(rank_, set_);
    mine.operation = operation;
    mine.size = in.size();
    if (mine.data.size() < in.size()) mine.data.resize(in.size());
    std::ranges::copy(in, mine.data.begin());
    TROUPE_RETURN_IF_ERROR(group_->meet(rank_, meeting, operation));
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      const Staged& theirs = received(peer);
      if (theirs.operation == operation && theirs.size == in.size()) continue;
      return group_->fail_with(
          internal_error("rank " + std::to_string(rank_) + " is in " + kOperationNames[static_cast<int>(operation)] +
                         " of " + std::to_string(in.size()) + " floats, but rank " + std::to_string(peer) + " in " +
                         kOperationNames[static_cast<int>(theirs.operation)] + " of " + std::to_string(theirs.size)));
    }
    return {};
  }

  // Each rank sums one slice, then gathers the other ranks' slices: reads 2 * size floats instead of
  // world_size * size.
  Result<void> all_reduce_split(std::span<float> data) {
    TROUPE_RETURN_IF_ERROR(exchange(Operation::kAllReduce, data));
    const std::size_t slice = (data.size() + world_size() - 1) / world_size();
    const std::size_t first = std::min(data.size(), rank_ * slice);
    slice_.resize(slice);
    sum_slice(first, std::span(slice_).first(std::min(slice, data.size() - first)));
    TROUPE_RETURN_IF_ERROR(exchange(Operation::kAllGather, slice_));
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      const std::size_t start = std::min(data.size(), peer * slice);
      std::copy_n(received(peer).data.data(), std::min(slice, data.size() - start), data.data() + start);
    }
    return {};
  }

  // out = the sum over ranks of what they staged at [first, first + out.size()).
  void sum_slice(std::size_t first, std::span<float> out) {
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      parts_[peer] = std::span<const float>(received(peer).data).subspan(first, out.size());
    }
    sum_in_rank_order(parts_, out);
  }

  void copy_all(std::span<float> out) {
    const std::size_t part = out.size() / world_size();
    for (std::uint32_t peer = 0; peer < world_size(); ++peer) {
      std::copy_n(received(peer).data.data(), part, out.data() + peer * part);
    }
  }

  const Staged& received(std::uint32_t peer) { return group_->staged(peer, set_); }

  std::shared_ptr<Group> group_;
  std::uint32_t rank_;
  std::uint64_t meetings_ = 0;
  unsigned set_ = 0;                           // of the staged data of the operation at hand
  std::vector<std::span<const float>> parts_;  // (world_size)
  std::vector<float> slice_;                   // this rank's part of a split sum
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_in_process_group(std::uint32_t world_size,
                                                                 const InProcessOptions& options) {
  assert(world_size > 0);
  const auto group = std::make_shared<Group>(world_size, options);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (std::uint32_t rank = 0; rank < world_size; ++rank) {
    ranks.push_back(std::make_unique<InProcessCommunicator>(group, rank));
  }
  return ranks;
}

}  // namespace troupe::collective
