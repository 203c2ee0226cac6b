#include "cluster/end_signal.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

namespace troupe::cluster {

EndSignal::EndSignal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a peer that closes its end is an error of that write, not our end
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  event_fd_ = eventfd(0, EFD_CLOEXEC);
  if (signal_fd_ < 0 || event_fd_ < 0) throw std::system_error(errno, std::generic_category(), "signalfd");
}

EndSignal::~EndSignal() {
  close(signal_fd_);
  close(event_fd_);
}

void EndSignal::end(int code, const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (ended_) return;
  ended_ = End{0, code, reason};
  eventfd_write(event_fd_, 1);
}

std::optional<EndSignal::End> EndSignal::wait(int timeout_ms) {
  pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {event_fd_, POLLIN, 0}};
  const int ready = poll(fds, 2, timeout_ms);
  if (ready <= 0) return std::nullopt;
  if (fds[1].revents != 0) {
    std::lock_guard lock(mutex_);
    return ended_;
  }
  signalfd_siginfo info;
  if (read(signal_fd_, &info, sizeof info) != sizeof info) return std::nullopt;
  const auto number = static_cast<int>(info.ssi_signo);
  return End{number, 128 + number, number == SIGINT ? "interrupted" : "terminated"};
}

}  // namespace troupe::cluster
