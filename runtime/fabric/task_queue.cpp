#include "runtime/fabric/task_queue.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <system_error>

namespace troupe::fabric {

thread_local const TaskQueue* TaskQueue::taken_ = nullptr;

TaskQueue::TaskQueue() : event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (event_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

TaskQueue::~TaskQueue() { ::close(event_fd_); }

std::unique_ptr<Task> TaskQueue::push(std::unique_ptr<Task> task) {
  auto* raw = task.get();
  auto* head = head_.load(std::memory_order_relaxed);
  if (taken_ == this && head == nullptr) {
    raw->run(std::move(task));
    return nullptr;
  }
  do {
    if (head == &closed_) return task;
    raw->next_ = head;
  } while (!head_.compare_exchange_weak(head, raw, std::memory_order_seq_cst, std::memory_order_relaxed));
  task.release();
  if (sleeping_.load(std::memory_order_seq_cst) && sleeping_.exchange(false, std::memory_order_seq_cst)) {
    std::uint64_t one = 1;
    // Cannot fail but for a full counter, and then the taker is awake already.
    [[maybe_unused]] auto written = ::write(event_fd_, &one, sizeof(one));
  }
  return nullptr;
}

void TaskQueue::end_sleep() {
  sleeping_.store(false, std::memory_order_relaxed);
  std::uint64_t count;
  [[maybe_unused]] auto read = ::read(event_fd_, &count, sizeof(count));
}

Task* TaskQueue::reversed(Task* newest) {
  Task* oldest = nullptr;
  while (newest) {
    auto* next = newest->next_;
    newest->next_ = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

}  // namespace troupe::fabric
