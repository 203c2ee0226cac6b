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

  std::size_t size() const { return stretches_.size(); }

  // Calls work(piece, member) once for every piece below `pieces`, and returns when all are done. Each member begins
  // with a stretch of its own, the same one whenever there are as many pieces, so that memory which it touched first
  // is read by it again; whoever has finished takes pieces of the others. A member whose core somebody else has is
  // waited for only while it holds a piece. `work` must not throw, and its results must not depend on who does which
  // piece.
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

  // The pieces that one member begins with.
  struct alignas(64) Stretch {
    std::atomic<std::size_t> next = 0;
    std::size_t end = 0;
  };

  explicit Team(std::size_t size) : stretches_(size) {}
  void run_shared(std::size_t pieces, Call call, void* context);
  void take_pieces(std::size_t member);
  void serve(std::size_t member, int core);
  bool enter(std::uint32_t round);
  void leave();

  // The job at hand, its stretches included. run_shared writes it while no round is open and no worker is inside;
  // workers read it between enter() and leave(). Of a worker that raises inside_ and the caller that closes the
  // round, at least one sees what the other wrote (both are sequentially consistent, each before the read): either
  // the worker turns back or the caller waits for it.
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::vector<Stretch> stretches_;  // (size)

  alignas(64) std::atomic<std::uint32_t> round_ = 0;   // odd while a round is open; each change counts one up
  alignas(64) std::atomic<std::uint32_t> inside_ = 0;  // workers between enter() and leave()
  std::atomic<bool> closing_ = false;
  std::vector<std::jthread> workers_;
};

}  // namespace troupe::kernels
