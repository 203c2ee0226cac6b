#include "runtime/fabric/progress.h"

#include <sys/epoll.h>
#include <unistd.h>
#include <caf/actor_cast.hpp>
#include <caf/scheduled_actor.hpp>
#include <caf/scheduler/abstract_coordinator.hpp>

#include <cerrno>
#include <cstring>
#include <utility>

namespace troupe::fabric {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kInlineMessages = 64;  // of one actor before others have their turn
constexpr auto kFarewell = std::chrono::seconds(2);
// Reading the clock takes about as long as a turn that finds nothing.
constexpr unsigned kTurnsPerReading = 32;

class WakeTask final : public Task {
 public:
  void run(std::unique_ptr<Task>) override {}
};

}  // namespace

void InlineUnit::add(const caf::strong_actor_ptr& actor) {
  {
    std::lock_guard lock(mutex_);
    actors_.insert(actor.get());
    size_.store(actors_.size(), std::memory_order_relaxed);
  }
  actor->get()->attach_functor([weak = weak_from_this(), address = actor.get()](const caf::error&) {
    if (auto self = weak.lock()) {
      std::lock_guard lock(self->mutex_);
      self->actors_.erase(address);
      self->size_.store(self->actors_.size(), std::memory_order_relaxed);
    }
  });
}

bool InlineUnit::contains(const caf::actor_control_block* actor) const {
  if (size_.load(std::memory_order_relaxed) == 0) return false;
  std::lock_guard lock(mutex_);
  return actors_.contains(actor);
}

void InlineUnit::exec_later(caf::resumable* job) {
  if (job->subtype() == caf::resumable::scheduled_actor && contains(static_cast<caf::scheduled_actor*>(job)->ctrl())) {
    jobs_.push_back(job);
  } else {
    system().scheduler().enqueue(job);
  }
}

bool InlineUnit::run() {
  auto count = jobs_.size();
  for (std::size_t i = 0; i < count; ++i) {
    auto* job = jobs_.front();
    jobs_.pop_front();
    switch (job->resume(this, kInlineMessages)) {
      case caf::resumable::resume_later: jobs_.push_back(job); break;
      default: caf::intrusive_ptr_release(job); break;  // the reference that enqueue() took
    }
  }
  return count > 0;
}

void InlineUnit::stop() {
  for (auto* job : jobs_) system().scheduler().enqueue(job);
  jobs_.clear();
}

Progress::Progress(std::shared_ptr<TaskQueue> tasks, std::shared_ptr<InlineUnit> unit, std::uint64_t spin_us)
    : tasks_(std::move(tasks)), unit_(std::move(unit)), spin_(spin_us) {}

Progress::~Progress() {
  if (epoll_fd_ >= 0) ::close(epoll_fd_);
}

Result<void> Progress::start(UcxWorker& worker, ProgressClient& client) {
  worker_ = &worker;
  client_ = &client;
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  for (int fd : {worker.event_fd(), tasks_->event_fd()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_fd_ < 0 || epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
      return internal_error(std::string("epoll: ") + std::strerror(errno));
    }
  }
  thread_ = std::thread([this] { loop(); });
  return {};
}

void Progress::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true, std::memory_order_release);
  tasks_->push(std::make_unique<WakeTask>());
  thread_.join();
}

bool Progress::turn() {
  bool busy = tasks_->drain([](std::unique_ptr<Task> task) {
    auto* raw = task.get();
    raw->run(std::move(task));
  }) > 0;
  busy |= client_->pump();
  // Once, not until nothing is left: a look at idle sockets is a system call that what has just come would wait for.
  if (ucp_worker_progress(worker_->handle()) != 0) busy = true;
  TaskQueue::TakersTurn turn(*tasks_);
  busy |= unit_->run();
  return busy;
}

void Progress::loop() {
  auto next_tick = Clock::now();
  auto busy_at = next_tick;
  bool was_busy = false;  // since the clock was read
  for (unsigned turns = 1; !stopping_.load(std::memory_order_acquire); ++turns) {
    bool busy = turn();
    was_busy |= busy;
    if (turns % kTurnsPerReading != 0 && (busy || spin_.count() > 0)) continue;
    auto now = Clock::now();
    if (now >= next_tick) next_tick = client_->tick(now);
    if (std::exchange(was_busy, false)) {
      busy_at = now;
    } else if (now - busy_at >= spin_) {
      sleep(next_tick);
      busy_at = Clock::now();
    }
  }
  auto deadline = Clock::now() + kFarewell;
  do turn();
  while (!client_->finish() && Clock::now() < deadline);
  unit_->stop();
}

void Progress::sleep(Clock::time_point until) {
  tasks_->announce_sleep();
  // Busy means that something arrived between the last progress and now.
  if (tasks_->empty() && ucp_worker_arm(worker_->handle()) == UCS_OK) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    epoll_event events[2];
    epoll_wait(epoll_fd_, events, 2, static_cast<int>(std::max<std::int64_t>(left, 0)));
  }
  tasks_->end_sleep();
}

}  // namespace troupe::fabric
