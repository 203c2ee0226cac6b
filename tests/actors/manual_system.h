#pragma once

#include <caf/all.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <chrono>

namespace troupe::testing {

// An actor system whose actors run one after another on the test's thread, with a clock that moves when told to.
class ManualSystem {
 public:
  caf::actor_system& system() { return system_; }

  // Lets every actor handle what it has. Without timers: the clock moves only in pass().
  void run() {
    while (coordinator_.try_run_once()) {
    }
  }

  void pass(std::chrono::milliseconds time) {
    coordinator_.advance_time(time);
    run();
  }

 private:
  struct Config : caf::actor_system_config {
    Config() { set("scheduler.policy", caf::atom("testing")); }
  };

  Config config_;
  caf::actor_system system_{config_};
  caf::scheduler::test_coordinator& coordinator_ = dynamic_cast<caf::scheduler::test_coordinator&>(system_.scheduler());
};

}  // namespace troupe::testing
