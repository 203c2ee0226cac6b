#include "kernels/cpu/team.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <string>

#include "runtime/base/relax.h"

namespace troupe::kernels {
namespace {

// About 10 us: longer than the gap between two operations of a step, short enough not to starve another shard that
// shares the core.
constexpr int kSpinIterations = 500;

template <class Done>
void spin(const Done& done) {
  for (int i = 0; i < kSpinIterations && !done(); ++i) relax();
}

Result<void> check_core(int core) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  // The process's (its first thread's) set, because the calling thread may be pinned already.
  if (sched_getaffinity(getpid(), sizeof allowed, &allowed) != 0) return internal_error("sched_getaffinity failed");
  if (core >= 0 && core < CPU_SETSIZE && CPU_ISSET(core, &allowed)) return {};
  std::string usable;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &allowed)) usable.append(" ").append(std::to_string(i));
  }
  return invalid_argument("core " + std::to_string(core) + " is not open to this process; use one of" + usable,
                          "cores");
}

bool bind_this_thread(int core) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(core, &only);
  return pthread_setaffinity_np(pthread_self(), sizeof only, &only) == 0;
}

}  // namespace

Result<void> pin_this_thread(int core) {
  TROUPE_RETURN_IF_ERROR(check_core(core));
  if (!bind_this_thread(core)) return internal_error("cannot bind a thread to core " + std::to_string(core));
  return {};
}

Result<std::unique_ptr<Team>> Team::make(const std::vector<int>& cores) {
  for (const int core : cores) TROUPE_RETURN_IF_ERROR(check_core(core));
  std::unique_ptr<Team> team(new Team);
  for (std::size_t member = 1; member < cores.size(); ++member) {
    team->workers_.emplace_back([&team = *team, member, core = cores[member]] { team.serve(member, core); });
  }
  return team;
}

Team::~Team() {
  closing_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
}

void Team::run_shared(std::size_t pieces, Call call, void* context) {
  call_ = call;
  context_ = context;
  pieces_ = pieces;
  next_piece_.store(0, std::memory_order_relaxed);
  unfinished_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();

  take_pieces(0);

  spin([&] { return unfinished_.load(std::memory_order_acquire) == 0; });
  for (std::uint32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) unfinished_.wait(left);
}

void Team::take_pieces(std::size_t member) {
  for (std::size_t piece; (piece = next_piece_.fetch_add(1, std::memory_order_relaxed)) < pieces_;) {
    call_(context_, piece, member);
  }
}

void Team::serve(std::size_t member, int core) {
  // The core was open when the team was made; should it have been taken away since, running elsewhere is still right.
  bind_this_thread(core);
  std::uint32_t seen = 0;
  while (true) {
    spin([&] { return round_.load(std::memory_order_acquire) != seen; });
    round_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (closing_) return;
    take_pieces(member);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
  }
}

}  // namespace troupe::kernels
