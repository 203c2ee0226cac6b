#include "tests/runtime/collective/nccl_stand_in.h"

#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::collective {

// A rank of a group. Everything under the stand-in's mutex but the thread.
struct NcclComm {
  std::uint64_t group = 0;
  int rank = 0;
  int ranks = 0;
  bool aborted = false;
  NcclStatus broken = NcclStatus::kSuccess;
  std::deque<std::pair<void*, std::function<bool()>>> work;  // and the stream that it is queued on
  std::jthread thread;
};

namespace testing {

struct NcclStandIn::State {
  const Done done;
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t next_id = 1;
  std::map<std::uint64_t, std::set<int>> joined;                                       // ranks, by group
  std::map<std::tuple<std::uint64_t, int, int>, std::deque<std::vector<float>>> sent;  // by group, sender, receiver
  std::set<NcclComm*> comms;

  explicit State(Done done) : done(done) {}

  static State* current;
  static thread_local bool grouping;
  static thread_local std::vector<std::function<NcclStatus()>> deferred;

  using Lock = std::unique_lock<std::mutex>;

  static float* floats(void* data) { return static_cast<float*>(data); }
  static const float* floats(const void* data) { return static_cast<const float*>(data); }

  void put(const NcclComm& comm, int peer, const float* data, std::size_t count) {
    sent[{comm.group, comm.rank, peer}].emplace_back(data, data + count);
    changed.notify_all();
  }

  // False: aborted.
  bool take(Lock& lock, NcclComm& comm, int peer, std::vector<float>& out) {
    auto& queue = sent[{comm.group, peer, comm.rank}];
    changed.wait(lock, [&] { return comm.aborted || !queue.empty(); });
    if (comm.aborted) return false;
    out = std::move(queue.front());
    queue.pop_front();
    return true;
  }

  void queue(NcclComm& comm, void* stream, std::function<bool()> work) {
    const Lock lock(mutex);
    comm.work.emplace_back(stream, std::move(work));
    changed.notify_all();
  }

  void run(NcclComm& comm) {
    while (true) {
      std::function<bool()> work;
      {
        Lock lock(mutex);
        changed.wait(lock, [&] { return comm.aborted || !comm.work.empty(); });
        if (comm.aborted) return;
        work = comm.work.front().second;
      }
      if (!work()) return;
      const Lock lock(mutex);
      comm.work.pop_front();
      changed.notify_all();
    }
  }

  NcclStatus status(const NcclComm& comm) {
    const Lock lock(mutex);
    if (comm.broken != NcclStatus::kSuccess) return comm.broken;
    const bool waits = std::any_of(comm.work.begin(), comm.work.end(),
                                   [&](const auto& item) { return item.first == nullptr || done == Done::kExchanged; });
    return waits ? NcclStatus::kInProgress : NcclStatus::kSuccess;
  }

  bool is_idle(void* stream) const {
    return std::none_of(comms.begin(), comms.end(), [&](const NcclComm* comm) {
      return !comm->aborted &&
             std::any_of(comm->work.begin(), comm->work.end(), [&](const auto& item) { return item.first == stream; });
    });
  }

  void wait_idle(void* stream) {
    Lock lock(mutex);
    changed.wait(lock, [&] { return is_idle(stream); });
  }

  // --- the functions ---

  static NcclStatus get_version(int* version) {
    *version = 22703;
    return NcclStatus::kSuccess;
  }

  static NcclStatus get_unique_id(NcclUniqueId* id) {
    const Lock lock(current->mutex);
    std::memset(id->bytes, 0xa5, sizeof id->bytes);
    std::memcpy(id->bytes, &current->next_id, sizeof current->next_id);
    ++current->next_id;
    return NcclStatus::kSuccess;
  }

  static NcclStatus comm_init_rank_config(NcclComm** comm, int ranks, NcclUniqueId id, int rank, NcclConfig* config) {
    if (config->blocking != 0 || config->size != sizeof(NcclConfig)) return NcclStatus::kInvalidArgument;
    State* const state = current;
    auto made = std::make_unique<NcclComm>();
    std::memcpy(&made->group, id.bytes, sizeof made->group);
    made->rank = rank;
    made->ranks = ranks;
    NcclComm* const self = *comm = made.release();
    state->queue(*self, nullptr, [state, self] {
      Lock lock(state->mutex);
      auto& there = state->joined[self->group];
      there.insert(self->rank);
      state->changed.notify_all();
      state->changed.wait(lock, [&] { return self->aborted || std::cmp_equal(there.size(), self->ranks); });
      return !self->aborted;
    });
    {
      const Lock lock(state->mutex);
      state->comms.insert(self);
    }
    self->thread = std::jthread([state, self] { state->run(*self); });
    return NcclStatus::kInProgress;
  }

  static NcclStatus comm_abort(NcclComm* comm) {
    {
      const Lock lock(current->mutex);
      comm->aborted = true;
      current->changed.notify_all();
    }
    comm->thread.join();
    const Lock lock(current->mutex);
    current->comms.erase(comm);
    current->changed.notify_all();
    delete comm;
    return NcclStatus::kSuccess;
  }

  static NcclStatus comm_get_async_error(NcclComm* comm, NcclStatus* status) {
    *status = current->status(*comm);
    return NcclStatus::kSuccess;
  }

  static const char* get_error_string(NcclStatus status) {
    return status == NcclStatus::kRemoteError ? "remote process exited or there was a network error" : "an error";
  }
  static const char* get_last_error(NcclComm*) { return "the stand-in was told so"; }

  static NcclStatus group_start() {
    grouping = true;
    return NcclStatus::kSuccess;
  }
  static NcclStatus group_end() {
    grouping = false;
    NcclStatus last = NcclStatus::kSuccess;
    for (const auto& call : std::exchange(deferred, {})) last = call();
    return last;
  }

  // Of a group, sends come before receives, as if all were made at once.
  static NcclStatus call(NcclComm* comm, void* stream, bool sends, std::function<bool()> work) {
    auto queue = [state = current, comm, stream, work = std::move(work)] {
      state->queue(*comm, stream, work);
      return state->status(*comm);
    };
    if (!grouping) return queue();
    deferred.insert(sends ? deferred.begin() : deferred.end(), std::move(queue));
    return NcclStatus::kSuccess;
  }

  static NcclStatus send(const void* data, std::size_t count, int, int peer, NcclComm* comm, void* stream) {
    return call(comm, stream, true, [state = current, data, count, peer, comm] {
      const Lock lock(state->mutex);
      state->put(*comm, peer, floats(data), count);
      return !comm->aborted;
    });
  }

  static NcclStatus recv(void* data, std::size_t count, int, int peer, NcclComm* comm, void* stream) {
    return call(comm, stream, false, [state = current, data, count, peer, comm] {
      Lock lock(state->mutex);
      std::vector<float> received;
      if (!state->take(lock, *comm, peer, received)) return false;
      if (received.size() != count) comm->broken = NcclStatus::kInternalError;
      std::copy_n(received.begin(), std::min(received.size(), count), floats(data));
      return true;
    });
  }

  // Adds from the last rank to the first, which is not the order that sums are promised in.
  static NcclStatus all_reduce(const void* in, void* out, std::size_t count, int, int, NcclComm* comm, void* stream) {
    return call(comm, stream, true, [state = current, in, out, count, comm] {
      Lock lock(state->mutex);
      const std::vector<float> own(floats(in), floats(in) + count);
      for (int peer = 0; peer < comm->ranks; ++peer) {
        if (peer != comm->rank) state->put(*comm, peer, own.data(), count);
      }
      std::vector<float> sum, addend;
      for (int peer = comm->ranks - 1; peer >= 0; --peer) {
        addend = own;
        if (peer != comm->rank && !state->take(lock, *comm, peer, addend)) return false;
        if (sum.empty()) sum.assign(count, 0.0f);
        for (std::size_t i = 0; i < count; ++i) sum[i] = peer == comm->ranks - 1 ? addend[i] : sum[i] + addend[i];
      }
      std::copy(sum.begin(), sum.end(), floats(out));
      return true;
    });
  }

  static NcclStatus all_gather(const void* in, void* out, std::size_t count, int, NcclComm* comm, void* stream) {
    return call(comm, stream, true, [state = current, in, out, count, comm] {
      Lock lock(state->mutex);
      const std::vector<float> own(floats(in), floats(in) + count);
      for (int peer = 0; peer < comm->ranks; ++peer) {
        if (peer != comm->rank) state->put(*comm, peer, own.data(), count);
      }
      for (int peer = 0; peer < comm->ranks; ++peer) {
        std::vector<float> part = own;
        if (peer != comm->rank && !state->take(lock, *comm, peer, part)) return false;
        std::copy(part.begin(), part.end(), floats(out) + static_cast<std::size_t>(peer) * count);
      }
      return true;
    });
  }
};

NcclStandIn::State* NcclStandIn::State::current = nullptr;
thread_local bool NcclStandIn::State::grouping = false;
thread_local std::vector<std::function<NcclStatus()>> NcclStandIn::State::deferred;

namespace {

// Everything that needs what was exchanged waits for it first.
class WaitingGpu final : public kernels::Gpu {
 public:
  WaitingGpu(std::unique_ptr<kernels::Gpu> gpu, std::function<void(void*)> wait, std::function<bool(void*)> is_idle)
      : gpu_(std::move(gpu)), wait_(std::move(wait)), is_idle_(std::move(is_idle)) {}

  std::string_view name() const override { return gpu_->name(); }
  kernels::GpuProperties properties() const override { return gpu_->properties(); }
  kernels::Stream stream() const override { return gpu_->stream(); }
  Result<void> use_in_this_thread() override { return gpu_->use_in_this_thread(); }
  Result<kernels::GpuMemoryInfo> memory_info() override { return gpu_->memory_info(); }
  Result<void*> allocate(std::uint64_t bytes) override { return gpu_->allocate(bytes); }
  void free(void* memory) override {
    wait();
    gpu_->free(memory);
  }
  Result<void*> allocate_pinned(std::uint64_t bytes) override { return gpu_->allocate_pinned(bytes); }
  void free_pinned(void* memory) override { gpu_->free_pinned(memory); }
  void copy_to_device(void* device, const void* host, std::uint64_t bytes) override {
    wait();
    gpu_->copy_to_device(device, host, bytes);
  }
  void copy_to_host(void* host, const void* device, std::uint64_t bytes) override {
    wait();
    gpu_->copy_to_host(host, device, bytes);
  }
  void copy(void* to, const void* from, std::uint64_t bytes) override {
    wait();
    gpu_->copy(to, from, bytes);
  }
  void fill(void* device, unsigned char value, std::uint64_t bytes) override { gpu_->fill(device, value, bytes); }
  Result<void> synchronize() override {
    wait();
    return gpu_->synchronize();
  }
  void notify(std::function<void(Result<void>)> done) override {
    wait();
    gpu_->notify(std::move(done));
  }
  Result<std::unique_ptr<kernels::GpuEvent>> make_event() override { return gpu_->make_event(); }
  void record(kernels::GpuEvent& event) override { gpu_->record(event); }
  Result<void> wait(const kernels::GpuEvent& event) override {
    wait();
    return gpu_->wait(event);
  }
  Result<bool> reached(const kernels::GpuEvent&) override { return is_idle_(stream().handle); }
  Result<double> milliseconds_between(const kernels::GpuEvent& first, const kernels::GpuEvent& second) override {
    return gpu_->milliseconds_between(first, second);
  }
  Result<void> begin_capture() override { return gpu_->begin_capture(); }
  Result<std::unique_ptr<kernels::GpuGraph>> end_capture() override { return gpu_->end_capture(); }
  void replay(const kernels::GpuGraph& graph) override { gpu_->replay(graph); }

 private:
  void wait() { wait_(stream().handle); }

  const std::unique_ptr<kernels::Gpu> gpu_;
  const std::function<void(void*)> wait_;
  const std::function<bool(void*)> is_idle_;
};

}  // namespace

NcclStandIn::NcclStandIn(Done done) : state_(std::make_unique<State>(done)) {
  assert(State::current == nullptr);
  State::current = state_.get();
}

NcclStandIn::~NcclStandIn() {
  assert(alive() == 0);
  State::current = nullptr;
}

NcclFunctions NcclStandIn::functions() const {
  return {.get_version = State::get_version,
          .get_unique_id = State::get_unique_id,
          .comm_init_rank_config = State::comm_init_rank_config,
          .comm_abort = State::comm_abort,
          .comm_get_async_error = State::comm_get_async_error,
          .get_error_string = State::get_error_string,
          .get_last_error = State::get_last_error,
          .group_start = State::group_start,
          .group_end = State::group_end,
          .send = State::send,
          .recv = State::recv,
          .all_reduce = State::all_reduce,
          .all_gather = State::all_gather};
}

NcclUniqueId NcclStandIn::make_id() {
  NcclUniqueId id;
  State::get_unique_id(&id);
  return id;
}

int NcclStandIn::alive() const {
  const State::Lock lock(state_->mutex);
  return static_cast<int>(state_->comms.size());
}

void NcclStandIn::break_rank(int rank, NcclStatus status) {
  const State::Lock lock(state_->mutex);
  for (NcclComm* comm : state_->comms) {
    if (comm->rank == rank) comm->broken = status;
  }
}

std::unique_ptr<kernels::Gpu> NcclStandIn::make_gpu(std::uint32_t index) {
  State* const state = state_.get();
  return std::make_unique<WaitingGpu>(
      kernels::open_emulated_gpu(index), [state](void* stream) { state->wait_idle(stream); },
      [state](void* stream) {
        const State::Lock lock(state->mutex);
        return state->is_idle(stream);
      });
}

}  // namespace testing
}  // namespace troupe::collective
