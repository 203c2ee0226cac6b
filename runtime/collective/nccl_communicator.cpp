#include "runtime/collective/nccl_communicator.h"

#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/row_ops.h"
#include "runtime/base/relax.h"

namespace troupe::collective {
namespace {

using Clock = std::chrono::steady_clock;
using Lock = std::unique_lock<std::mutex>;

// Up to here the latency of another operation costs more than its bytes: some 10 us, at some 20 GB/s.
constexpr std::size_t kGatherWholeBytes = 256 << 10;

// NCCL queues an operation within microseconds, unless it is the first one of its kind.
constexpr unsigned kSpins = 1000;
constexpr std::chrono::microseconds kPollInterval(100);

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const NcclFunctions& nccl, NcclComm* comm, std::unique_ptr<Communicator> host,
                   kernels::DeviceMemory& memory, std::unique_ptr<kernels::GpuEvent> queued,
                   const NcclCommunicatorOptions& options)
      : nccl_(nccl),
        rank_(host->rank()),
        ranks_(host->world_size()),
        timeout_(options.timeout),
        host_(std::move(host)),
        memory_(memory),
        gpu_(*memory.gpu_or_null()),
        comm_(comm),
        queued_(std::move(queued)) {
    assert(ranks_ > 1);
    watcher_ =
        std::jthread([this, interval = options.watch_interval](const std::stop_token& stop) { watch(stop, interval); });
  }

  ~NcclCommunicator() override {
    watcher_ = {};
    end();  // before the memory that its kernels may still be using
    if (scratch_ != nullptr) memory_.release(scratch_, scratch_floats_ * sizeof(float));
  }

  std::uint32_t rank() const override { return rank_; }
  std::uint32_t world_size() const override { return ranks_; }

  Result<void> all_reduce(std::span<float> data) override {
    constexpr const char* kName = "all_reduce";
    if (data.empty()) return check();
    if (ranks_ == 2) {
      return queue(kName, [&] {
        return nccl_.all_reduce(data.data(), data.data(), data.size(), kNcclFloat32, kNcclSum, comm_, stream());
      });
    }
    if (data.size_bytes() <= kGatherWholeBytes || data.size() % ranks_ != 0) {
      TROUPE_ASSIGN_OR_RETURN(float* const all, scratch(ranks_ * data.size()));
      TROUPE_RETURN_IF_ERROR(gather_all(kName, data.data(), all, data.size()));
      sum(all, data);
      return {};
    }
    const std::size_t part = data.size() / ranks_;
    const std::span<float> own = data.subspan(rank_ * part, part);
    TROUPE_ASSIGN_OR_RETURN(float* const parts, scratch(data.size()));
    TROUPE_RETURN_IF_ERROR(exchange_parts(kName, data.data(), parts, part));
    sum(parts, own);
    return gather_all(kName, own.data(), data.data(), part);
  }

  Result<void> all_gather(std::span<const float> in, std::span<float> out) override {
    assert(out.size() == ranks_ * in.size());
    return gather_all("all_gather", in.data(), out.data(), in.size());
  }

  Result<void> reduce_scatter(std::span<const float> in, std::span<float> out) override {
    assert(in.size() == ranks_ * out.size());
    if (out.empty()) return check();
    TROUPE_ASSIGN_OR_RETURN(float* const parts, scratch(in.size()));
    TROUPE_RETURN_IF_ERROR(exchange_parts("reduce_scatter", in.data(), parts, out.size()));
    sum(parts, out);
    return {};
  }

  Result<void> all_to_all(std::span<const float> in, std::span<float> out) override {
    assert(in.size() == out.size() && in.size() % ranks_ == 0);
    return exchange_parts("all_to_all", in.data(), out.data(), in.size() / ranks_);
  }

  Result<void> gather(std::span<const float> in, std::span<float> out, std::uint32_t root) override {
    constexpr const char* kName = "gather";
    assert(root < ranks_ && out.size() == (rank_ == root ? ranks_ * in.size() : 0));
    if (in.empty()) return check();
    if (rank_ != root) {
      return queue(kName, [&] {
        return nccl_.send(in.data(), in.size(), kNcclFloat32, static_cast<int>(root), comm_, stream());
      });
    }
    memory_.copy(out.data() + rank_ * in.size(), in.data(), in.size_bytes());
    return queue(kName, [&] {
      return grouped([&](std::uint32_t peer) {
        float* const to = out.data() + peer * in.size();
        return nccl_.recv(to, in.size(), kNcclFloat32, static_cast<int>(peer), comm_, stream());
      });
    });
  }

  Result<void> check() override {
    Lock lock(mutex_);
    look(lock);
    if (failure_) return *failure_;
    return {};
  }

  void abort(std::string_view reason) override {
    Lock lock(mutex_);
    fail(lock, cancelled("the group was aborted: " + std::string(reason)));
  }

 private:
  void* stream() const { return gpu_.stream().handle; }

  // Queues what `calls` calls, and returns when NCCL has queued it. Only the thread of the shard comes here.
  template <class Calls>
  Result<void> queue(const char* operation, const Calls& calls) {
    Lock lock(mutex_);
    if (failure_) return *failure_;
    TROUPE_RETURN_IF_ERROR(settle(lock, calls(), operation, Clock::now() + timeout_));
    gpu_.record(*queued_);
    waits_since_ = Clock::now();
    waits_for_ = operation;
    return {};
  }

  // Waits until NCCL's thread is done with what gave `status`. The lock is released now and then.
  Result<void> settle(Lock& lock, NcclStatus status, const char* operation, Clock::time_point deadline) {
    for (unsigned polls = 0; status == NcclStatus::kInProgress; ++polls) {
      const auto asked = nccl_.comm_get_async_error(comm_, &status);
      if (asked != NcclStatus::kSuccess) status = asked;
      if (status != NcclStatus::kInProgress) break;
      if (Clock::now() >= deadline) {
        return fail(lock, late(operation, "NCCL_DEBUG=INFO shows what it waits for, TROUPE_NCCL=off does without it"));
      }
      if (polls < kSpins) {
        lock.unlock();
        relax();
        lock.lock();
      } else {
        changed_.wait_for(lock, kPollInterval);
      }
      if (failure_) return *failure_;
    }
    if (status != NcclStatus::kSuccess) return fail(lock, error_of(status, operation));
    return {};
  }

  // One call for each peer, all at once: they would wait for each other one by one.
  template <class Call>
  NcclStatus grouped(const Call& call) {
    NcclStatus status = nccl_.group_start();
    for (std::uint32_t peer = 0; peer < ranks_ && is_under_way(status); ++peer) {
      if (peer != rank_) status = call(peer);
    }
    const NcclStatus ended = nccl_.group_end();
    return is_under_way(status) ? ended : status;
  }

  static bool is_under_way(NcclStatus status) {
    return status == NcclStatus::kSuccess || status == NcclStatus::kInProgress;
  }

  // all(ranks, count) = in(count) of every rank.
  Result<void> gather_all(const char* operation, const float* in, float* all, std::size_t count) {
    if (count == 0) return check();
    return queue(operation, [&] { return nccl_.all_gather(in, all, count, kNcclFloat32, comm_, stream()); });
  }

  // out(i, :) = row `rank` of rank i's in. in, out: (ranks, part)
  Result<void> exchange_parts(const char* operation, const float* in, float* out, std::size_t part) {
    if (part == 0) return check();
    memory_.copy(out + rank_ * part, in + rank_ * part, part * sizeof(float));
    return queue(operation, [&] {
      return grouped([&](std::uint32_t peer) {
        const auto to = static_cast<int>(peer);
        const NcclStatus sent = nccl_.send(in + peer * part, part, kNcclFloat32, to, comm_, stream());
        if (!is_under_way(sent)) return sent;
        return nccl_.recv(out + peer * part, part, kNcclFloat32, to, comm_, stream());
      });
    });
  }

  // out = the sum of the rows of in(ranks, out.size()), in their order.
  void sum(const float* in, std::span<float> out) {
    const kernels::SumRowsArgs args = {in, ranks_, out.size(), out.data()};
    TROUPE_GPU_CALL(sum_rows, gpu_.stream(), args);
  }

  Result<float*> scratch(std::size_t floats) {
    if (floats <= scratch_floats_) return scratch_;
    if (scratch_ != nullptr) memory_.release(std::exchange(scratch_, nullptr), scratch_floats_ * sizeof(float));
    scratch_floats_ = 0;
    TROUPE_ASSIGN_OR_RETURN(void* const memory, memory_.allocate(floats * sizeof(float), "what ranks exchange"));
    scratch_ = static_cast<float*>(memory);
    scratch_floats_ = floats;
    return scratch_;
  }

  void watch(const std::stop_token& stop, std::chrono::milliseconds interval) {
    const bool sees_gpu = gpu_.use_in_this_thread().ok();
    Lock lock(mutex_);
    while (!changed_.wait_for(lock, stop, interval, [&] { return failure_.has_value(); })) {
      if (stop.stop_requested()) return;
      look(lock);
      if (failure_ || !waits_since_ || !sees_gpu) continue;
      // A GPU that is lost is found by whoever waits for it.
      const auto reached = gpu_.reached(*queued_);
      if (!reached.ok() || *reached) {
        waits_since_.reset();
      } else if (Clock::now() >= *waits_since_ + timeout_) {
        fail(lock, late(waits_for_, "another rank does not take part; its own messages may tell why"));
      }
    }
  }

  // Finds out whether the group has failed since.
  void look(Lock& lock) {
    if (failure_) return;
    if (auto checked = host_->check(); !checked.ok()) {
      fail(lock, std::move(checked).error());
      return;
    }
    NcclStatus status = NcclStatus::kSuccess;
    const NcclStatus asked = nccl_.comm_get_async_error(comm_, &status);
    if (asked != NcclStatus::kSuccess) status = asked;
    if (status != NcclStatus::kSuccess && status != NcclStatus::kInProgress) fail(lock, error_of(status, waits_for_));
  }

  // The first failure stays: what follows is its consequence.
  Error fail(Lock&, Error error) {
    if (failure_) return *failure_;
    failure_ = std::move(error);
    end();
    host_->abort(failure_->message);
    changed_.notify_all();
    return *failure_;
  }

  // Ends the kernels that wait on the GPU.
  void end() {
    if (comm_ != nullptr) nccl_.comm_abort(std::exchange(comm_, nullptr));
  }

  Error late(const std::string& operation, const std::string& remedy) const {
    return deadline_exceeded("NCCL: " + operation + " of rank " + std::to_string(rank_) + " of " +
                             std::to_string(ranks_) + " was not done within " + std::to_string(timeout_.count()) +
                             " ms: " + remedy);
  }

  // What the host's group knows of a peer says more than the error that its end causes here.
  Error error_of(NcclStatus status, const char* operation) {
    if (auto checked = host_->check(); !checked.ok()) return std::move(checked).error();
    const char* const more = comm_ == nullptr ? nullptr : nccl_.get_last_error(comm_);
    std::string text = "NCCL: " + std::string(operation) + " of rank " + std::to_string(rank_) + " of " +
                       std::to_string(ranks_) + " failed: " + nccl_.get_error_string(status);
    if (more != nullptr && *more != '\0') text += " (" + std::string(more) + ")";
    text += "; NCCL_DEBUG=INFO shows more, TROUPE_NCCL=off does without it";
    const bool of_others = status == NcclStatus::kRemoteError || status == NcclStatus::kSystemError;
    return of_others ? unavailable(std::move(text)) : internal_error(std::move(text));
  }

  const NcclFunctions nccl_;
  const std::uint32_t rank_;
  const std::uint32_t ranks_;
  const std::chrono::milliseconds timeout_;
  const std::unique_ptr<Communicator> host_;
  kernels::DeviceMemory& memory_;
  kernels::Gpu& gpu_;

  // Of the shard's thread.
  float* scratch_ = nullptr;  // of the device
  std::size_t scratch_floats_ = 0;

  // Under the mutex. NCCL's calls of one group come from one thread at a time.
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<Error> failure_;
  NcclComm* comm_ = nullptr;                         // null after a failure
  const std::unique_ptr<kernels::GpuEvent> queued_;  // behind the latest operation
  std::optional<Clock::time_point> waits_since_;     // when that was queued; empty when the GPU has passed it
  const char* waits_for_ = "waiting";                // the latest operation

  std::jthread watcher_;
};

}  // namespace

std::uint64_t nccl_scratch_bytes(std::uint32_t ranks, std::uint64_t rows, std::uint64_t cols) {
  if (ranks <= 2) return 0;
  const std::uint64_t all = rows * cols;
  const std::uint64_t whole = cols % ranks == 0 ? std::min<std::uint64_t>(all, kGatherWholeBytes / sizeof(float)) : all;
  return std::max(whole * ranks, all) * sizeof(float);
}

Result<std::unique_ptr<Communicator>> make_nccl_communicator(const NcclFunctions& nccl, NcclComm* comm,
                                                             std::unique_ptr<Communicator> host,
                                                             kernels::DeviceMemory& memory,
                                                             const NcclCommunicatorOptions& options) {
  assert(memory.gpu_or_null() != nullptr && comm != nullptr);
  auto queued = memory.gpu_or_null()->make_event();
  if (!queued.ok()) {
    nccl.comm_abort(comm);
    return std::move(queued).error();
  }
  return std::unique_ptr<Communicator>(
      std::make_unique<NcclCommunicator>(nccl, comm, std::move(host), memory, *std::move(queued), options));
}

}  // namespace troupe::collective
