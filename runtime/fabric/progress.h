#pragma once

#include <caf/actor_control_block.hpp>
#include <caf/actor_system.hpp>
#include <caf/execution_unit.hpp>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "runtime/base/result.h"
#include "runtime/fabric/task_queue.h"
#include "runtime/fabric/ucx.h"

namespace troupe::fabric {

// Runs chosen actors on the fabric's thread instead of CAF's pool.
class InlineUnit final : public caf::execution_unit, public std::enable_shared_from_this<InlineUnit> {
 public:
  explicit InlineUnit(caf::actor_system& system) : caf::execution_unit(&system) {}

  void add(const caf::strong_actor_ptr& actor);  // any thread
  bool contains(const caf::actor_control_block* actor) const;

  // The fabric's thread only:
  void exec_later(caf::resumable* job) override;
  bool run();   // each waiting actor once; false if there was none
  void stop();  // hands what waits to CAF's pool

 private:
  mutable std::mutex mutex_;
  std::unordered_set<const caf::actor_control_block*> actors_;  // erased when they die
  std::atomic<std::size_t> size_{0};                            // spares the lock when there are none
  std::deque<caf::resumable*> jobs_;
};

// What the loop drives besides the tasks; called on the fabric's thread.
class ProgressClient {
 public:
  virtual ~ProgressClient() = default;
  virtual bool pump() = 0;  // sends what can be sent; false if nothing was done
  // Periodic work; returns when it wants to be called again.
  virtual std::chrono::steady_clock::time_point tick(std::chrono::steady_clock::time_point now) = 0;
  virtual bool finish() = 0;  // after stop(): says farewell, closes; true when all is closed
};

// The one thread that talks to UCX: takes tasks, progresses the worker, pumps, runs inline actors; when idle it
// spins for `spin_us` and then sleeps until UCX, a task or the clock wakes it.
class Progress {
 public:
  Progress(std::shared_ptr<TaskQueue> tasks, std::shared_ptr<InlineUnit> unit, std::uint64_t spin_us);
  ~Progress();  // REQUIRES: stopped, or never started

  // `worker` and `client` must live until stop() returned.
  Result<void> start(UcxWorker& worker, ProgressClient& client);
  void stop();

 private:
  void loop();
  bool turn();
  void sleep(std::chrono::steady_clock::time_point until);

  std::shared_ptr<TaskQueue> tasks_;
  std::shared_ptr<InlineUnit> unit_;
  const std::chrono::microseconds spin_;
  UcxWorker* worker_ = nullptr;
  ProgressClient* client_ = nullptr;
  int epoll_fd_ = -1;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace troupe::fabric
