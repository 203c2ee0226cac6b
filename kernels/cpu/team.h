#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::kernels {

// Binds the calling thread to one core. Errors: a core that this process may not use.
Result<void> pin_this_thread(int core);

// The threads of one shard: the caller, as member 0, and a persistent worker pinned to each of cores[1..].
// With one core or none there are no threads and run() is a loop.
//
// Thread-safety: run() from one thread at a time; the destructor waits for the workers.
class Team {
 public:
  // Errors: a core that this process may not use.
  static Result<std::unique_ptr<Team>> make(const std::vector<int>& cores);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  std::size_t size() const { return workers_.size() + 1; }

  // Calls work(piece, member) once for every piece below `pieces`, and returns when all are done. Whoever is free
  // takes the next piece, so that a member whose core is shared with others does not hold up the rest. `work` must
  // not throw, and its results must not depend on who does which piece.
  template <class Work>
  void run(std::size_t pieces, Work&& work) {
    if (pieces <= 1 || workers_.empty()) {
      for (std::size_t piece = 0; piece < pieces; ++piece) work(piece, std::size_t{0});
      return;
    }
    using Plain = std::remove_reference_t<Work>;
    const Call call = [](void* context, std::size_t piece, std::size_t member) {
      (*static_cast<Plain*>(context))(piece, member);
    };
    run_shared(pieces, call, const_cast<std::remove_const_t<Plain>*>(&work));
  }

 private:
  using Call = void (*)(void* context, std::size_t piece, std::size_t member);

  Team() = default;
  void run_shared(std::size_t pieces, Call call, void* context);
  void take_pieces(std::size_t member);
  void serve(std::size_t member, int core);

  // The job at hand: written by run_shared before it raises round_, read by workers after they have seen it rise;
  // written again only when unfinished_ has come down to zero, which each worker does after its last read.
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::size_t pieces_ = 0;
  bool closing_ = false;

  alignas(64) std::atomic<std::uint32_t> round_ = 0;
  alignas(64) std::atomic<std::size_t> next_piece_ = 0;
  alignas(64) std::atomic<std::uint32_t> unfinished_ = 0;  // workers still in this round
  std::vector<std::jthread> workers_;
};

}  // namespace troupe::kernels
