#include "runtime/collective/mailbox.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <string>

#include "runtime/base/relax.h"

namespace troupe::collective {
namespace {

using Clock = std::chrono::steady_clock;

// Some tens of microseconds: as long as ranks that do the same work are apart. Then the core is somebody else's.
constexpr unsigned kSpins = 1024;
// A sleeper looks that often whether it should give up, should nobody have woken it.
constexpr auto kSlice = std::chrono::milliseconds(50);
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;  // lest an access beyond its end kills us

std::string system_error(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

// Spurious returns are fine. Not private: the other side is another process.
void sleep_while(std::atomic<std::uint32_t>& word, std::uint32_t value) {
  const timespec slice{.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds(kSlice).count()};
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, value, &slice, nullptr, 0);
}

void wake_sleeper(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

// Returns when word is not `value` any more.
Result<void> wait_while(std::atomic<std::uint32_t>& word, std::uint32_t value, std::atomic<std::uint32_t>& sleeps,
                        std::chrono::milliseconds timeout, const Interruption& interruption) {
  for (unsigned spin = 0; spin < kSpins; ++spin) {
    if (word.load(std::memory_order_acquire) != value) return {};
    relax();
  }
  const auto deadline = Clock::now() + timeout;
  while (true) {
    // In this order on one side, and a change of the word before a look at `sleeps` on the other: one of them sees.
    sleeps.store(1, std::memory_order_seq_cst);
    if (word.load(std::memory_order_seq_cst) != value) break;
    TROUPE_RETURN_IF_ERROR(interruption());
    if (Clock::now() >= deadline) {
      return deadline_exceeded("nothing happened within " + std::to_string(timeout.count()) + " ms");
    }
    sleep_while(word, value);
  }
  sleeps.store(0, std::memory_order_relaxed);
  return {};
}

void advance(std::atomic<std::uint32_t>& word, std::uint32_t value, std::atomic<std::uint32_t>& sleeps) {
  word.store(value, std::memory_order_seq_cst);
  if (sleeps.load(std::memory_order_seq_cst) != 0) wake_sleeper(word);
}

}  // namespace

Result<void> put(Mailbox& mailbox, std::span<const std::byte> frame, std::chrono::milliseconds timeout,
                 const Interruption& interruption) {
  assert(frame.size() <= Mailbox::kSlotBytes);
  const std::uint32_t written = mailbox.written.load(std::memory_order_relaxed);
  const std::uint32_t full = written - Mailbox::kSlots;  // what `read` is when no slot is free
  TROUPE_RETURN_IF_ERROR(wait_while(mailbox.read, full, mailbox.writer_sleeps, timeout, interruption));
  Mailbox::Slot& slot = mailbox.slots[written % Mailbox::kSlots];
  slot.size.store(frame.size(), std::memory_order_relaxed);
  if (!frame.empty()) std::memcpy(slot.data, frame.data(), frame.size());
  advance(mailbox.written, written + 1, mailbox.reader_sleeps);
  return {};
}

Result<void> take(Mailbox& mailbox, std::span<std::byte> frame, std::chrono::milliseconds timeout,
                  const Interruption& interruption) {
  const std::uint32_t read = mailbox.read.load(std::memory_order_relaxed);
  TROUPE_RETURN_IF_ERROR(wait_while(mailbox.written, read, mailbox.reader_sleeps, timeout, interruption));
  const Mailbox::Slot& slot = mailbox.slots[read % Mailbox::kSlots];
  const std::uint64_t size = slot.size.load(std::memory_order_relaxed);
  if (size != frame.size()) {
    return corrupt_data("got " + std::to_string(size) + " bytes, expected " + std::to_string(frame.size()));
  }
  if (!frame.empty()) std::memcpy(frame.data(), slot.data, frame.size());
  advance(mailbox.read, read + 1, mailbox.writer_sleeps);
  return {};
}

void wake(Mailbox& mailbox) {
  wake_sleeper(mailbox.written);
  wake_sleeper(mailbox.read);
}

Result<std::unique_ptr<SharedMailboxes>> SharedMailboxes::make() {
  std::unique_ptr<SharedMailboxes> made(new SharedMailboxes);
  Offer& offer = made->offer_;
  offer.pid = ::getpid();
  // Of no name: nothing is left behind however this process ends.
  offer.file = ::memfd_create("troupe-mailboxes", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (offer.file < 0) return unavailable(system_error("memfd_create"));
  if (::ftruncate(offer.file, sizeof(Memory)) != 0 || ::fcntl(offer.file, F_ADD_SEALS, kSeals) != 0 ||
      ::getrandom(offer.token.data(), offer.token.size(), 0) != static_cast<ssize_t>(offer.token.size())) {
    const Error error = unavailable(system_error("shared memory"));
    made->close_file();
    return error;
  }
  if (auto mapped = made->map(offer.file); !mapped.ok()) {
    made->close_file();
    return std::move(mapped).error();
  }
  made->memory_->token = offer.token;
  return made;
}

Result<std::unique_ptr<SharedMailboxes>> SharedMailboxes::open(const Offer& offer) {
  const std::string path = "/proc/" + std::to_string(offer.pid) + "/fd/" + std::to_string(offer.file);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) return not_found(path + ": " + std::strerror(errno));
  std::unique_ptr<SharedMailboxes> opened(new SharedMailboxes);
  opened->offer_ = {.pid = offer.pid, .file = -1, .token = offer.token};
  struct stat status {};
  // Only memory can be sealed, and sealed memory keeps its size.
  const bool usable = ::fstat(file, &status) == 0 && status.st_size == sizeof(Memory) &&
                      ::fcntl(file, F_GET_SEALS) == kSeals && opened->map(file).ok() &&
                      opened->memory_->token == offer.token;
  ::close(file);
  if (!usable) return not_found(path + ": is not the memory that was offered");
  return opened;
}

Result<void> SharedMailboxes::map(int file) {
  void* const memory = ::mmap(nullptr, sizeof(Memory), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return unavailable(system_error("mmap"));
  memory_ = static_cast<Memory*>(memory);
  return {};
}

void SharedMailboxes::close_file() {
  if (offer_.file >= 0) ::close(offer_.file);
  offer_.file = -1;
}

SharedMailboxes::~SharedMailboxes() {
  close_file();
  if (memory_ != nullptr) ::munmap(memory_, sizeof(Memory));
}

}  // namespace troupe::collective
