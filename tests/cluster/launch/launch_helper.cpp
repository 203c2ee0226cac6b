// What launcher_test starts: `exit CODE`, `print`, `hang`, `env NAME VALUE`, `only-loopback`, and `launch`, which
// starts a hanging child through a launcher of its own, prints the child's pid and hangs as well.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

#include "cluster/launch/local.h"

namespace {

[[noreturn]] void hang() {
  while (true) pause();
}

int launch(const char* self) {
  auto launcher = troupe::cluster::make_local_launcher();
  if (!launcher.ok()) return 3;
  troupe::cluster::NodeSpec node;
  node.name = {"child"};
  troupe::cluster::Command command;
  command.argv = {self, "hang"};
  const auto process = (*launcher)->start(node, command, {});
  if (!process.ok()) return 4;
  std::cout << (*process)->pid() << std::endl;
  hang();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "exit") return std::atoi(argv[2]);
  if (what == "print") {
    std::cout << "to out\nsecond line" << std::flush;
    std::cerr << "to err\n";
    return 0;
  }
  if (what == "env") {
    const char* value = std::getenv(argv[2]);
    return value != nullptr && std::string(value) == argv[3] ? 0 : 1;
  }
  if (what == "only-loopback") {
    for (const auto& entry : std::filesystem::directory_iterator("/sys/class/net")) {
      if (entry.path().filename() != "lo") return 1;
    }
    return 0;
  }
  if (what == "launch") return launch(argv[0]);
  hang();
}
