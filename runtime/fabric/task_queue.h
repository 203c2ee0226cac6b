#pragma once

#include <atomic>
#include <memory>
#include <utility>

namespace troupe::fabric {

// Something for the fabric's thread to do.
class Task {
 public:
  virtual ~Task() = default;
  // Owns itself, so that it may keep itself for later.
  virtual void run(std::unique_ptr<Task> self) = 0;

 private:
  friend class TaskQueue;
  Task* next_ = nullptr;
};

// Many threads push, one takes everything at once, in the order of pushing. Wakes the taker only when it sleeps.
// A push either succeeds or, after close(), gives the task back; none is lost between.
class TaskQueue {
 public:
  TaskQueue();
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  // Returns the task itself after close(), else null. Any thread. On the taker's own thread, in the life of a
  // TakersTurn, the task runs at once if none waits.
  std::unique_ptr<Task> push(std::unique_ptr<Task> task);

  // The taker runs something that pushes, and no task.
  class TakersTurn {
   public:
    explicit TakersTurn(const TaskQueue& queue) { taken_ = &queue; }
    ~TakersTurn() { taken_ = nullptr; }
    TakersTurn(const TakersTurn&) = delete;
    TakersTurn& operator=(const TakersTurn&) = delete;
  };

  // The taker's side:
  bool empty() const { return head_.load(std::memory_order_seq_cst) == nullptr; }
  // Calls `each(std::unique_ptr<Task>)` for all tasks, oldest first; returns how many there were.
  template <class Each>
  std::size_t drain(Each&& each) {
    std::size_t count = 0;
    // Spinning takers look here all the time; only the exchange is a locked instruction.
    if (head_.load(std::memory_order_relaxed) == nullptr) return count;
    for (Task* task = reversed(head_.exchange(nullptr, std::memory_order_acq_rel)); task; ++count) {
      std::unique_ptr<Task> owned(std::exchange(task, task->next_));
      each(std::move(owned));
    }
    return count;
  }
  // No push succeeds any more; drains what was left.
  template <class Each>
  void close(Each&& each) {
    for (Task* task = reversed(head_.exchange(&closed_, std::memory_order_acq_rel)); task;) {
      std::unique_ptr<Task> owned(std::exchange(task, task->next_));
      each(std::move(owned));
    }
  }

  // To sleep: announce_sleep(), look at empty() once more, wait for event_fd(), end_sleep(). A pusher either sees
  // the announcement and signals, or its task is seen by the second look (both sides are sequentially consistent).
  void announce_sleep() { sleeping_.store(true, std::memory_order_seq_cst); }
  void end_sleep();
  int event_fd() const { return event_fd_; }

 private:
  struct Closed final : Task {
    void run(std::unique_ptr<Task>) override {}
  };
  static Task* reversed(Task* newest);

  static thread_local const TaskQueue* taken_;  // of this thread's TakersTurn

  std::atomic<Task*> head_{nullptr};
  std::atomic<bool> sleeping_{false};
  int event_fd_;
  Closed closed_;
};

}  // namespace troupe::fabric
