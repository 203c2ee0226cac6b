#include "cluster/launch/local.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "cluster/launch/child.h"
#include "cluster/launch/line_prefixer.h"

extern char** environ;

namespace troupe::cluster {
namespace {

// glibc 2.36 declares pidfd_open without C linkage.
int open_pidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

std::string errno_text() { return std::error_code(errno, std::generic_category()).message(); }

// One of a child's two output pipes.
struct OutputPipe {
  int fd = -1;  // read end; -1 = inherited or at its end
  LinePrefixer lines;
};

// A child process. Shared by the launcher's thread, which alone touches what is not guarded, and its LocalProcess.
struct Child {
  std::mutex mutex;
  bool alive = true;               // guarded: `pid` is ours until the launcher's thread has reaped it
  Launcher::ExitCallback on_exit;  // guarded; empty once called or no longer wanted

  pid_t pid = 0;  // constant once started
  int pidfd = -1;
  std::optional<OutputPipe> out;
  std::optional<OutputPipe> err;

  // To its whole process group.
  void send(int signal_number) {
    const std::lock_guard lock(mutex);
    if (alive) kill(-pid, signal_number);
  }
};

class LocalProcess final : public Process {
 public:
  explicit LocalProcess(std::shared_ptr<Child> child) : child_(std::move(child)) {}

  ~LocalProcess() override {
    Launcher::ExitCallback unwanted;  // destroyed after the lock is gone
    const std::lock_guard lock(child_->mutex);
    unwanted.swap(child_->on_exit);
    if (child_->alive) kill(-child_->pid, SIGKILL);
  }

  pid_t pid() const override { return child_->pid; }

  Result<void> signal(int signal_number) override {
    if (signal_number < 1 || signal_number >= NSIG) {
      return invalid_argument("there is no signal " + std::to_string(signal_number));
    }
    child_->send(signal_number);
    return {};
  }

 private:
  std::shared_ptr<Child> child_;
};

// All forks happen on one thread of the launcher's own, which lives as long as the launcher: the kernel kills a child
// when the thread that forked it ends, not its process. The same thread waits for exits and passes output on.
class LocalLauncher final : public Launcher {
 public:
  LocalLauncher(int epoll_fd, int wake_fd) : epoll_fd_(epoll_fd), wake_fd_(wake_fd) {
    // Signals are for the program's other threads: none of their handlers may run here, or in a fresh child.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~LocalLauncher() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake();
    thread_.join();
    close(epoll_fd_);
    close(wake_fd_);
  }

  Result<std::unique_ptr<Process>> start(const NodeSpec& node, const Command& command, ExitCallback on_exit) override {
    Request request{&node, &command, std::move(on_exit), {}};
    auto answer = request.answer.get_future();
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(&request);
    }
    wake();
    return answer.get();
  }

 private:
  using Answer = Result<std::unique_ptr<Process>>;

  // A caller of start(), who waits for the answer and so keeps all this alive.
  struct Request {
    const NodeSpec* node;
    const Command* command;
    ExitCallback on_exit;
    std::promise<Answer> answer;
  };

  // What an epoll event is about: the low two bits of its data; the rest is the child's key in children_.
  enum Source : std::uint64_t { kWake = 0, kExit = 1, kOut = 2, kErr = 3 };

  void wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(wake_fd_, &one, sizeof one);
  }

  void run() {
    watch(wake_fd_, kWake);
    std::array<epoll_event, 16> events;
    while (true) {
      const int count = epoll_wait(epoll_fd_, events.data(), events.size(), -1);
      for (int i = 0; i < count; ++i) handle(events[i].data.u64);
      std::deque<Request*> requests;
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) break;
        requests.swap(requests_);
      }
      for (Request* request : requests) request->answer.set_value(launch(*request));
    }
    for (auto& [key, child] : children_) {
      child->send(SIGKILL);
      reap(*child);
    }
  }

  void handle(std::uint64_t data) {
    if (data == kWake) {
      std::uint64_t ignored;
      [[maybe_unused]] const auto got = read(wake_fd_, &ignored, sizeof ignored);
      return;
    }
    // An earlier event of the same round may have been the child's end.
    const auto found = children_.find(data >> 2);
    if (found == children_.end()) return;
    const std::shared_ptr<Child> child = found->second;
    switch (static_cast<Source>(data & 3)) {
      case kOut: forward(*child->out); break;
      case kErr: forward(*child->err); break;
      case kExit:
        children_.erase(found);
        end(*child);
        break;
      case kWake: break;
    }
  }

  void end(Child& child) {
    const ProcessExit how = reap(child);
    ExitCallback callback;
    {
      const std::lock_guard lock(child.mutex);
      callback.swap(child.on_exit);
    }
    if (callback) callback(how);
  }

  // Waits for a child that has ended or was killed, ends what it left in its process group, and passes on its last
  // words.
  ProcessExit reap(Child& child) {
    siginfo_t info{};
    const auto id = static_cast<id_t>(child.pidfd);
    // WNOWAIT: until the second call the process stays a zombie, whose id no other group can have.
    while (waitid(P_PIDFD, id, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
    }
    {
      const std::lock_guard lock(child.mutex);
      child.alive = false;
      kill(-child.pid, SIGKILL);
    }
    while (waitid(P_PIDFD, id, &info, WEXITED) != 0 && errno == EINTR) {
    }
    close(child.pidfd);
    for (auto* pipe : {&child.out, &child.err}) {
      if (!*pipe) continue;
      forward(**pipe);
      shut(**pipe);
    }
    ProcessExit how;
    how.pid = child.pid;
    (info.si_code == CLD_EXITED ? how.code : how.signal) = info.si_status;
    return how;
  }

  void forward(OutputPipe& pipe) {
    std::array<char, 16 << 10> buffer;
    while (pipe.fd >= 0) {
      const ssize_t got = read(pipe.fd, buffer.data(), buffer.size());
      if (got > 0) {
        pipe.lines.add({buffer.data(), static_cast<std::size_t>(got)});
      } else if (got == 0) {
        shut(pipe);
      } else if (errno != EINTR) {
        return;  // EAGAIN: no more for now
      }
    }
  }

  void shut(OutputPipe& pipe) {
    if (pipe.fd < 0) return;
    pipe.lines.finish();
    close(pipe.fd);
    pipe.fd = -1;
  }

  Answer launch(Request& request) {
    auto child = std::make_shared<Child>();
    child->on_exit = std::move(request.on_exit);
    ChildSpec spec;
    spec.argv = request.command->argv;
    spec.environment = environment_with(request.command->environment);
    spec.netns = *request.node->netns;
    std::array<int, 2> write_ends = {-1, -1};
    if (request.command->prefix_output) {
      const std::string prefix = "[" + *request.node->name + "] ";
      if (!open_pipe(child->out, prefix, 1, write_ends[0]) || !open_pipe(child->err, prefix, 2, write_ends[1])) {
        const Error error = resource_exhausted("no pipes for node '" + *request.node->name + "': " + errno_text());
        drop_pipes(*child, write_ends);
        return error;
      }
      spec.stdout_fd = write_ends[0];
      spec.stderr_fd = write_ends[1];
    }
    auto started = start_child(spec);
    if (!started.ok()) {
      drop_pipes(*child, write_ends);
      return std::move(started).error().within("node '" + *request.node->name + "'");
    }
    child->pid = *started;
    for (const int fd : write_ends) {
      if (fd >= 0) close(fd);
    }

    const std::uint64_t key = ++last_key_;
    child->pidfd = open_pidfd(child->pid);
    if (child->pidfd < 0 || !watch(child->pidfd, key << 2 | kExit)) {
      const Error error = resource_exhausted("node '" + *request.node->name + "' cannot be watched: " + errno_text());
      kill(-child->pid, SIGKILL);
      while (waitpid(child->pid, nullptr, 0) < 0 && errno == EINTR) {
      }
      if (child->pidfd >= 0) close(child->pidfd);
      drop_pipes(*child, {-1, -1});
      return error;
    }
    if (child->out) watch(child->out->fd, key << 2 | kOut);
    if (child->err) watch(child->err->fd, key << 2 | kErr);
    children_.emplace(key, child);
    return Answer(std::make_unique<LocalProcess>(std::move(child)));
  }

  static bool open_pipe(std::optional<OutputPipe>& pipe, const std::string& prefix, int target_fd, int& write_end) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return false;
    fcntl(fds[0], F_SETFL, O_NONBLOCK);  // only our end: the child's writes shall wait
    pipe.emplace(OutputPipe{fds[0], LinePrefixer(prefix, target_fd)});
    write_end = fds[1];
    return true;
  }

  void drop_pipes(Child& child, std::array<int, 2> write_ends) {
    for (const int fd : write_ends) {
      if (fd >= 0) close(fd);
    }
    if (child.out) shut(*child.out);
    if (child.err) shut(*child.err);
  }

  bool watch(int fd, std::uint64_t data) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = data;
    return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0;
  }

  static std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& added) {
    std::vector<std::string> result;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string_view text(*entry);
      bool replaced = false;
      for (const auto& [name, value] : added) replaced = replaced || text.starts_with(name + "=");
      if (!replaced) result.emplace_back(text);
    }
    for (const auto& [name, value] : added) result.push_back(name + "=" + value);
    return result;
  }

  const int epoll_fd_;
  const int wake_fd_;
  std::mutex mutex_;
  std::deque<Request*> requests_;  // guarded
  bool stopping_ = false;          // guarded

  // The thread's own.
  std::map<std::uint64_t, std::shared_ptr<Child>> children_;
  std::uint64_t last_key_ = 0;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

Result<std::unique_ptr<Launcher>> make_local_launcher() {
  const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  try {
    if (epoll_fd >= 0 && wake_fd >= 0) {
      return std::unique_ptr<Launcher>(std::make_unique<LocalLauncher>(epoll_fd, wake_fd));
    }
  } catch (const std::system_error&) {
    errno = EAGAIN;  // no thread
  }
  const Error error = resource_exhausted("processes cannot be started from here: " + errno_text());
  if (epoll_fd >= 0) close(epoll_fd);
  if (wake_fd >= 0) close(wake_fd);
  return error;
}

}  // namespace troupe::cluster
