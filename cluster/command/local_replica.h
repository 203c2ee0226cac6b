#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "actors/draft_compute.h"
#include "actors/shard_compute.h"
#include "kernels/select.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/engine/engine.h"

namespace troupe::cluster {

struct LocalReplicaOptions {
  std::filesystem::path model;
  std::vector<kernels::ComputeDevice> devices;  // (ranks): of each tensor-parallel rank
  std::uint32_t batch = 0;                      // sequences at a time
  std::uint32_t max_length = 0;                 // of a sequence, prompt and answer together
  kernels::DType kv_dtype = kernels::DType::kF32;
  std::filesystem::path packed_cache;  // a folder that keeps packed weights for later starts, or empty
  std::uint32_t max_guesses = 0;       // of a sequence in a step; 0 = no speculation
  std::filesystem::path draft;         // the model that guesses; empty = the text so far does
  Limits limits;
};

// One replica in one process, without actors and without a gateway: the engine, and a thread for each tensor-parallel
// rank of the one stage; a draft works on the thread of rank 0, before each step. Steps are formed, computed and
// applied as in a cluster, by the same classes, one at a time.
//
// Thread-safety: one thread, that of load(), which must not be the process's first. It is rank 0 and gets pinned.
class LocalReplica {
 public:
  // Errors: of the model's files (kInvalidArgument where it cannot be cut so), of the cores, of memory.
  static Result<std::unique_ptr<LocalReplica>> load(const LocalReplicaOptions& options);
  ~LocalReplica();

  // Returns when the packed weights are kept, if they are to be.
  void wait_for_packed_cache() const;

  // Queues a request that is answered greedily with exactly max_tokens tokens. Errors: of the engine.
  Result<void> admit(std::uint64_t request, const std::vector<std::uint32_t>& prompt, std::uint32_t max_tokens);

  // Forms a step, computes it on all ranks, and returns what it means for the requests. REQUIRES: not idle()
  Result<std::vector<engine::Delta>> step();

  // Forgets every request.
  void cancel_all();

  bool idle() const { return engine_.idle(); }
  engine::SpeculationCounts speculation() const { return engine_.counts().speculation; }
  const ShardCompute& rank(std::size_t index) const { return *ranks_[index].compute; }
  std::size_t ranks() const { return ranks_.size(); }

 private:
  struct Rank {
    std::unique_ptr<ShardCompute> compute;
    Result<void> outcome;  // of its latest work
    std::jthread thread;   // none for rank 0
  };
  using Work = std::function<Result<void>(std::size_t rank)>;

  explicit LocalReplica(const engine::EngineOptions& options, std::size_t ranks);

  // Calls work(rank) on every rank's own thread; returns when all are done, with the first error.
  Result<void> on_all_ranks(const Work& work);
  void serve(std::size_t rank);

  Result<void> ask_draft();

  engine::Engine engine_;
  std::unique_ptr<DraftCompute> draft_;  // null: there is none
  std::vector<Rank> ranks_;

  // The work at hand: written before round_ rises, read by the threads after they have seen it rise; written again only
  // when unfinished_ has come down to zero, which each thread does after its last read.
  const Work* work_ = nullptr;  // null: the threads end
  std::atomic<std::uint32_t> round_ = 0;
  std::atomic<std::uint32_t> unfinished_ = 0;
};

}  // namespace troupe::cluster
