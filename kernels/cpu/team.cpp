#include "kernels/cpu/team.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
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
  std::unique_ptr<Team> team(new Team(std::max<std::size_t>(1, cores.size())));
  for (std::size_t member = 1; member < cores.size(); ++member) {
    team->workers_.emplace_back([&team = *team, member, core = cores[member]] { team.serve(member, core); });
  }
  return team;
}

Team::~Team() {
  closing_ = true;
  round_.fetch_add(1);
  round_.notify_all();
}

void Team::run_shared(std::size_t pieces, Call call, void* context) {
  call_ = call;
  context_ = context;
  for (std::size_t member = 0; member < size(); ++member) {
    stretches_[member].next.store(pieces * member / size(), std::memory_order_relaxed);
    stretches_[member].end = pieces * (member + 1) / size();
  }
  round_.fetch_add(1);
  round_.notify_all();

  take_pieces(0);

  // Every piece is taken, by us or by a worker inside; the rest may stay away.
  round_.fetch_add(1);
  spin([&] { return inside_.load() == 0; });
  for (std::uint32_t left; (left = inside_.load()) != 0;) inside_.wait(left);
}

void Team::take_pieces(std::size_t member) {
  for (std::size_t other = 0; other < size(); ++other) {
    Stretch& stretch = stretches_[(member + other) % size()];
    for (std::size_t piece; (piece = stretch.next.fetch_add(1, std::memory_order_relaxed)) < stretch.end;) {
      call_(context_, piece, member);
    }
  }
}

// Whether the worker is inside the round, whose job stays as it is until the worker leaves.
bool Team::enter(std::uint32_t round) {
  inside_.fetch_add(1);
  if (round_.load() == round) return true;
  leave();
  return false;
}

void Team::leave() {
  if (inside_.fetch_sub(1) == 1) inside_.notify_one();
}

void Team::serve(std::size_t member, int core) {
  // The core was open when the team was made; should it have been taken away since, running elsewhere is still right.
  bind_this_thread(core);
  std::uint32_t seen = 0;
  while (true) {
    const auto is_new = [&] { return round_.load() != seen; };
    spin(is_new);
    if (!is_new()) round_.wait(seen);
    seen = round_.load();
    if (closing_) return;
    if (seen % 2 == 1 && enter(seen)) {
      take_pieces(member);
      leave();
    }
  }
}

}  // namespace troupe::kernels
