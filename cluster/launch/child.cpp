#include "cluster/launch/child.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <system_error>

#include "cluster/network_namespace.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

std::string errno_text(int error) { return std::error_code(error, std::generic_category()).message(); }

// Closes on destruction.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }
  int get() const { return fd_; }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

// What the child was doing when it failed; sent through a pipe with errno.
enum class Step : int { kNamespace, kMount, kStandardStreams, kExec };

struct Failure {
  Step step;
  int error;
};

// Everything the child needs, made before the fork: after it only async-signal-safe calls are allowed, because another
// thread may have held any lock (the allocator's, for one) at that moment.
struct Prepared {
  char* const* argv;
  char* const* environment;
  pid_t parent;
  int netns_fd;  // or -1
  int stdout_fd;
  int stderr_fd;
  int failure_fd;  // closed by a successful exec
};

[[noreturn]] void fail(const Prepared& p, Step step) {
  const Failure failure{step, errno};
  [[maybe_unused]] const auto written = write(p.failure_fd, &failure, sizeof failure);
  _exit(127);
}

[[noreturn]] void run_child(const Prepared& p) {
  // The signal is not sent for a parent that died before prctl: then we have another parent by now.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != p.parent) _exit(127);
  setpgid(0, 0);

  if (p.netns_fd >= 0) {
    if (setns(p.netns_fd, CLONE_NEWNET) != 0) fail(p, Step::kNamespace);
    if (!remount_sys()) fail(p, Step::kMount);
  }

  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  // The outputs are first moved above 2, so that setting one does not overwrite another.
  const int out = fcntl(p.stdout_fd, F_DUPFD_CLOEXEC, 3);
  const int err = fcntl(p.stderr_fd, F_DUPFD_CLOEXEC, 3);
  if (null_fd < 0 || out < 0 || err < 0 || dup2(null_fd, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) {
    fail(p, Step::kStandardStreams);
  }
  // All our own descriptors are close-on-exec; this is for those of libraries.
  close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC);

  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) sigaction(number, &by_default, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);

  execve(p.argv[0], p.argv, p.environment);
  fail(p, Step::kExec);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (const std::string& text : strings) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

Error explain(const ChildSpec& spec, const Failure& failure) {
  const std::string why = errno_text(failure.error);
  switch (failure.step) {
    case Step::kNamespace:
      return unavailable("network namespace '" + spec.netns + "' cannot be entered: " + why +
                         (failure.error == EPERM ? "; this needs root (CAP_SYS_ADMIN)" : ""));
    case Step::kMount:
      return unavailable("/sys cannot be mounted for network namespace '" + spec.netns + "': " + why +
                         (failure.error == EPERM ? "; this needs root (CAP_SYS_ADMIN)" : ""));
    case Step::kStandardStreams: return unavailable("standard streams cannot be set up: " + why);
    case Step::kExec: return unavailable("'" + printable(spec.argv[0], 400) + "' cannot be executed: " + why);
  }
  return internal_error("child failed: " + why);
}

}  // namespace

Result<pid_t> start_child(const ChildSpec& spec) {
  if (spec.argv.empty()) return invalid_argument("no program to run");
  const std::string netns_path = "/run/netns/" + spec.netns;
  const Fd netns(spec.netns.empty() ? -1 : open(netns_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!spec.netns.empty() && netns.get() < 0) {
    return not_found("network namespace '" + spec.netns + "': " + netns_path + ": " + errno_text(errno) +
                     "; make it with: ip netns add " + spec.netns);
  }
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return resource_exhausted("no pipe for a child: " + errno_text(errno));
  const Fd failure_in(pipe_fds[0]);
  Fd failure_out(pipe_fds[1]);

  const std::vector<char*> argv = pointers(spec.argv);
  const std::vector<char*> environment = pointers(spec.environment);
  const Prepared prepared{argv.data(),    environment.data(), getpid(),         netns.get(),
                          spec.stdout_fd, spec.stderr_fd,     failure_out.get()};
  const pid_t pid = fork();
  if (pid < 0) return resource_exhausted("no process for a child: " + errno_text(errno));
  if (pid == 0) run_child(prepared);

  failure_out.reset();
  Failure failure;
  ssize_t got;
  do {
    got = read(failure_in.get(), &failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  if (got == 0) return pid;  // exec closed the pipe
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (got != sizeof failure) return internal_error("child " + std::to_string(pid) + " could not say why it failed");
  return explain(spec, failure);
}

}  // namespace troupe::cluster
