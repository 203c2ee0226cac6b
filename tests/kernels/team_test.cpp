#include "kernels/cpu/team.h"

#include <sched.h>

#include <boost/test/unit_test.hpp>
#include <mutex>
#include <set>

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(team)

// One open core, as often as there are members: the hardest case for whoever spins.
static std::unique_ptr<Team> team_of(std::size_t size) {
  cpu_set_t open;
  sched_getaffinity(0, sizeof open, &open);
  int core = 0;
  while (!CPU_ISSET(core, &open)) ++core;
  return Team::make(std::vector<int>(size, core)).value();
}

BOOST_AUTO_TEST_CASE(every_piece_is_done_once_before_run_returns) {
  for (const std::size_t size : {1, 2, 4}) {
    const auto team = team_of(size);
    BOOST_TEST(team->size() == size);
    for (std::size_t round = 0; round < 300; ++round) {
      std::vector<int> done(round % 37);  // unguarded: each piece has one writer, and run() orders them before us
      team->run(done.size(), [&](std::size_t piece, std::size_t member) {
        if (member < size) ++done[piece];
      });
      BOOST_REQUIRE(done == std::vector<int>(done.size(), 1));
    }
  }
}

BOOST_AUTO_TEST_CASE(pieces_wait_for_no_particular_member) {
  // The first piece ends only when another member has done the second.
  const auto team = team_of(2);
  std::atomic<bool> second_done = false;
  std::set<std::size_t> members;
  std::mutex mutex;
  team->run(2, [&](std::size_t piece, std::size_t member) {
    {
      const std::lock_guard lock(mutex);
      members.insert(member);
    }
    if (piece == 0) {
      second_done.wait(false);
    } else {
      second_done = true;
      second_done.notify_all();
    }
  });
  BOOST_TEST(members.size() == 2u);
}

BOOST_AUTO_TEST_CASE(a_team_without_cores_works_on_the_calling_thread) {
  const auto team = Team::make({}).value();
  const auto self = std::this_thread::get_id();
  std::size_t pieces = 0;
  team->run(5, [&](std::size_t, std::size_t) { pieces += std::this_thread::get_id() == self; });
  BOOST_TEST(pieces == 5u);
}

BOOST_AUTO_TEST_CASE(pinning_binds_the_calling_thread_alone) {
  std::jthread([] {
    cpu_set_t before;
    sched_getaffinity(0, sizeof before, &before);
    int core = 0;
    while (!CPU_ISSET(core, &before)) ++core;
    BOOST_TEST(pin_this_thread(core).ok());
    cpu_set_t after;
    sched_getaffinity(0, sizeof after, &after);
    BOOST_TEST(CPU_COUNT(&after) == 1);
    BOOST_TEST(CPU_ISSET(core, &after));
    BOOST_TEST(!pin_this_thread(-1).ok());
  }).join();
}

BOOST_AUTO_TEST_SUITE_END()
