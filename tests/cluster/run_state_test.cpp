#include "cluster/run_state.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

using namespace troupe;
using namespace troupe::cluster;

// A run directory of the test's own.
struct RunDirectory {
  RunDirectory() {
    char pattern[] = "/tmp/troupe-run-XXXXXX";
    path = mkdtemp(pattern);
    setenv("TROUPE_RUN_DIR", path.c_str(), 1);
  }
  ~RunDirectory() {
    unsetenv("TROUPE_RUN_DIR");
    std::filesystem::remove_all(path);
  }
  std::filesystem::path path;
};

RunState state_of(const std::string& cluster) {
  return {.cluster = cluster, .pid = 17, .endpoint = "127.0.0.1:9", .secret = "s", .netns = "", .transports = ""};
}

BOOST_FIXTURE_TEST_SUITE(run_state, RunDirectory)

BOOST_AUTO_TEST_CASE(a_running_cluster_is_found_until_it_ends) {
  {
    auto claimed = RunStateFile::claim("one");
    BOOST_REQUIRE(claimed.ok());
    BOOST_TEST(read_run_state("one").error().message == "cluster one is about to start; ask again in a moment");
    BOOST_REQUIRE(claimed->write(state_of("one")).ok());
    const auto found = read_run_state("one");
    BOOST_REQUIRE(found.ok());
    BOOST_TEST(found->endpoint == "127.0.0.1:9");
    BOOST_TEST(read_run_state("two").error().message == "no cluster named two is running here (running: one)");
    const auto again = RunStateFile::claim("one");
    BOOST_TEST(again.error().message.starts_with("a cluster named one runs already (process 17); end it"));
  }
  BOOST_TEST(read_run_state("one").error().message == "no cluster named one is running here (running: none)");
}

BOOST_AUTO_TEST_CASE(what_a_killed_process_left_is_no_cluster_and_is_taken_over) {
  std::ofstream(path / "one.json")
      << R"({"cluster":"one","pid":1,"endpoint":"e","secret":"s","netns":"","transports":""})";
  BOOST_TEST(read_run_state("one").error().message == "no cluster named one is running here (running: none)");
  const auto claimed = RunStateFile::claim("one");
  BOOST_REQUIRE(claimed.ok());
  BOOST_TEST(read_run_state("one").error().message == "cluster one is about to start; ask again in a moment");
}

// Whoever asks while a cluster starts neither hides it nor keeps it from starting, and clusters of one name that follow
// each other closely do not lose their file to the one before.
BOOST_AUTO_TEST_CASE(asking_while_clusters_start_and_end_hides_none_of_them) {
  std::atomic<bool> done = false;
  std::thread asker([&] {
    while (!done) static_cast<void>(read_run_state("one"));
  });
  int refused = 0, hidden = 0;
  for (int round = 0; round < 2000; ++round) {
    auto claimed = RunStateFile::claim("one");
    refused += !claimed.ok();
    if (!claimed.ok()) continue;
    static_cast<void>(claimed->write(state_of("one")));
    hidden += !read_run_state("one").ok();
  }
  done = true;
  asker.join();
  BOOST_TEST(refused == 0);
  BOOST_TEST(hidden == 0);
}

BOOST_AUTO_TEST_SUITE_END()
