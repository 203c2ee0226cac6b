#include "runtime/fabric/task_queue.h"

#include <boost/test/unit_test.hpp>
#include <thread>
#include <vector>

namespace troupe::fabric {
namespace {

class Noting final : public Task {
 public:
  Noting(std::vector<int>& notes, int number) : notes_(notes), number_(number) {}
  void run(std::unique_ptr<Task>) override { notes_.push_back(number_); }

 private:
  std::vector<int>& notes_;
  int number_;
};

struct Fixture {
  std::unique_ptr<Task> push(int number) { return queue.push(std::make_unique<Noting>(notes, number)); }
  std::size_t drain() {
    return queue.drain([](std::unique_ptr<Task> task) {
      auto* raw = task.get();
      raw->run(std::move(task));
    });
  }

  std::vector<int> notes;
  TaskQueue queue;
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(task_queue, Fixture)

BOOST_AUTO_TEST_CASE(tasks_run_in_the_order_of_pushing) {
  for (int i = 0; i < 3; ++i) BOOST_TEST(!push(i));
  BOOST_TEST(drain() == 3);
  BOOST_TEST(notes == (std::vector{0, 1, 2}));
  BOOST_TEST(drain() == 0);
}

BOOST_AUTO_TEST_CASE(in_the_takers_turn_a_task_runs_at_once_unless_one_waits) {
  {
    TaskQueue::TakersTurn turn(queue);
    BOOST_TEST(!push(1));
    BOOST_TEST(notes == (std::vector{1}));
    std::thread([&] { push(2); }).join();
    BOOST_TEST(notes == (std::vector{1}));
    push(3);
    BOOST_TEST(notes == (std::vector{1}));
    drain();
    BOOST_TEST(notes == (std::vector{1, 2, 3}));
  }
  push(4);
  BOOST_TEST(notes.size() == 3);
  drain();
}

BOOST_AUTO_TEST_CASE(a_closed_queue_gives_tasks_back) {
  push(1);
  queue.close([](std::unique_ptr<Task> task) {
    auto* raw = task.get();
    raw->run(std::move(task));
  });
  BOOST_TEST(notes == (std::vector{1}));
  TaskQueue::TakersTurn turn(queue);
  BOOST_TEST(static_cast<bool>(push(2)));
  BOOST_TEST(notes.size() == 1);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::fabric
