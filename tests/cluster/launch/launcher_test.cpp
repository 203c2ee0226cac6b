#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>

#include <boost/test/unit_test.hpp>

#include "cluster/launch/line_prefixer.h"
#include "cluster/launch/local.h"

namespace troupe::cluster {
namespace {

// glibc 2.36 declares pidfd_open without C linkage.
int open_pidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

NodeSpec node(const std::string& netns = {}) {
  NodeSpec spec;
  spec.name = {"left"};
  spec.netns = {netns};
  return spec;
}

Command helper(std::vector<std::string> arguments) {
  Command command;
  command.argv = {LAUNCH_HELPER};
  command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
  return command;
}

std::unique_ptr<Launcher> launcher() {
  auto made = make_local_launcher();
  BOOST_TEST_REQUIRE(made.ok());
  return std::move(*made);
}

// Starts a process whose end arrives in the future.
std::unique_ptr<Process> start(Launcher& launcher, const Command& command, std::future<ProcessExit>& end,
                               const NodeSpec& spec = node()) {
  auto promise = std::make_shared<std::promise<ProcessExit>>();
  end = promise->get_future();
  auto process = launcher.start(spec, command, [promise](const ProcessExit& exit) { promise->set_value(exit); });
  if (!process.ok()) BOOST_FAIL(process.error().message);
  return std::move(*process);
}

// Waits until the process is gone; a minute is for a machine that hangs, not a measure.
bool ends(int pidfd) {
  pollfd wanted{pidfd, POLLIN, 0};
  return poll(&wanted, 1, 60'000) == 1;
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_exit_code_is_reported_once_the_process_ends) {
  const auto l = launcher();
  std::future<ProcessExit> end;
  const auto process = start(*l, helper({"exit", "7"}), end);
  const ProcessExit how = end.get();
  BOOST_TEST(how.pid == process->pid());
  BOOST_TEST(how.code == 7);
  BOOST_TEST(how.signal == 0);
  BOOST_TEST(how.to_string() == "ended with exit code 7");
  BOOST_TEST(process->signal(SIGTERM).ok());
}

BOOST_AUTO_TEST_CASE(a_signal_reaches_the_process_and_is_reported) {
  const auto l = launcher();
  std::future<ProcessExit> end;
  const auto process = start(*l, helper({"hang"}), end);
  BOOST_TEST(process->signal(SIGTERM).ok());
  const ProcessExit how = end.get();
  BOOST_TEST(how.signal == SIGTERM);
  BOOST_TEST(how.to_string() == "was killed by signal 15 (Terminated)");
  BOOST_TEST(!process->signal(0).ok());
}

BOOST_AUTO_TEST_CASE(destroying_the_process_or_the_launcher_kills) {
  auto l = launcher();
  std::future<ProcessExit> first_end;
  std::future<ProcessExit> second_end;
  auto first = start(*l, helper({"hang"}), first_end);
  const auto second = start(*l, helper({"hang"}), second_end);
  const int first_fd = open_pidfd(first->pid());
  const int second_fd = open_pidfd(second->pid());
  BOOST_TEST_REQUIRE((first_fd >= 0 && second_fd >= 0));
  first.reset();
  BOOST_TEST(ends(first_fd));
  l.reset();
  BOOST_TEST(ends(second_fd));
  close(first_fd);
  close(second_fd);
}

BOOST_AUTO_TEST_CASE(no_child_survives_a_launcher_process_that_is_killed) {
  int output[2];
  BOOST_TEST_REQUIRE(pipe2(output, O_CLOEXEC) == 0);
  const pid_t middle = fork();
  if (middle == 0) {
    dup2(output[1], STDOUT_FILENO);
    execl(LAUNCH_HELPER, LAUNCH_HELPER, "launch", nullptr);
    _exit(127);
  }
  close(output[1]);
  char text[32] = {};
  BOOST_TEST_REQUIRE(read(output[0], text, sizeof text - 1) > 0);
  close(output[0]);
  const int grandchild = open_pidfd(std::atoi(text));
  BOOST_TEST_REQUIRE(grandchild >= 0);
  kill(middle, SIGKILL);
  waitpid(middle, nullptr, 0);
  BOOST_TEST(ends(grandchild));
  close(grandchild);
}

BOOST_AUTO_TEST_CASE(the_environment_is_ours_with_additions) {
  const auto l = launcher();
  setenv("TROUPE_LAUNCH_TEST", "old", 1);
  Command command = helper({"env", "TROUPE_LAUNCH_TEST", "new"});
  command.environment = {{"TROUPE_LAUNCH_TEST", "new"}};
  std::future<ProcessExit> end;
  const auto process = start(*l, command, end);
  BOOST_TEST(end.get().code == 0);
}

BOOST_AUTO_TEST_CASE(output_comes_out_line_by_line_with_the_nodes_name) {
  // The launcher writes to our own descriptors 1 and 2: both go to a file for the length of this test.
  const auto path = std::filesystem::temp_directory_path() / ("troupe-launch-" + std::to_string(getpid()));
  const int saved[2] = {dup(1), dup(2)};
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  dup2(file, 1);
  dup2(file, 2);
  ProcessExit how;
  {
    const auto l = launcher();
    Command command = helper({"print"});
    command.prefix_output = true;
    std::future<ProcessExit> end;
    const auto process = start(*l, command, end);
    how = end.get();
  }
  dup2(saved[0], 1);
  dup2(saved[1], 2);
  for (const int fd : {saved[0], saved[1], file}) close(fd);
  std::ifstream in(path);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  std::filesystem::remove(path);
  BOOST_TEST(how.code == 0);
  BOOST_TEST(text.find("[left] to out\n") != std::string::npos);
  BOOST_TEST(text.find("[left] second line\n") != std::string::npos);
  BOOST_TEST(text.find("[left] to err\n") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_line_without_end_comes_out_in_pieces) {
  int fds[2];
  BOOST_TEST_REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
  LinePrefixer lines("> ", fds[1]);
  lines.add(std::string(LinePrefixer::kMaxLine + 1, 'x'));
  lines.finish();
  close(fds[1]);
  std::string text(2 * LinePrefixer::kMaxLine, '\0');
  text.resize(static_cast<std::size_t>(read(fds[0], text.data(), text.size())));
  close(fds[0]);
  BOOST_TEST(text == "> " + std::string(LinePrefixer::kMaxLine, 'x') + "\n> x\n");
}

BOOST_AUTO_TEST_CASE(what_cannot_be_started_is_an_error_that_names_it) {
  const auto l = launcher();
  Command command;
  command.argv = {"/nowhere/troupe"};
  const auto missing = l->start(node(), command, {});
  BOOST_TEST_REQUIRE(!missing.ok());
  BOOST_TEST(missing.error().message == "node 'left': '/nowhere/troupe' cannot be executed: No such file or directory");
  const auto no_namespace = l->start(node("no-such-netns"), helper({"exit", "0"}), {});
  BOOST_TEST_REQUIRE(!no_namespace.ok());
  BOOST_TEST(no_namespace.error().message.find("ip netns add no-such-netns") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_node_in_a_network_namespace_sees_only_its_interfaces) {
  const std::string name = "troupe-test-" + std::to_string(getpid());
  if (geteuid() != 0 || std::system(("ip netns add " + name + " 2>/dev/null").c_str()) != 0) {
    BOOST_TEST_MESSAGE("skipped: making network namespaces needs root and iproute2");
    return;
  }
  {
    const auto l = launcher();
    std::future<ProcessExit> end;
    const auto process = start(*l, helper({"only-loopback"}), end, node(name));
    BOOST_TEST(end.get().code == 0);
  }
  BOOST_TEST(std::system(("ip netns delete " + name).c_str()) == 0);
}

}  // namespace troupe::cluster
