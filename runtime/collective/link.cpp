#include "runtime/collective/link.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "runtime/base/log.h"
#include "runtime/collective/mailbox.h"

namespace troupe::collective {
namespace {

using std::chrono::milliseconds;

Result<void> receive_whole(fabric::Channel& channel, std::span<std::byte> frame, milliseconds timeout) {
  TROUPE_ASSIGN_OR_RETURN(const std::size_t size, channel.receive(frame, timeout));
  if (size == frame.size()) return {};
  return corrupt_data("got " + std::to_string(size) + " bytes, expected " + std::to_string(frame.size()));
}

class ChannelLink final : public Link {
 public:
  explicit ChannelLink(fabric::Channel channel) : channel_(std::move(channel)) {}

  Result<void> send(std::span<const std::byte> frame) override { return channel_.send(frame); }
  Result<void> receive(std::span<std::byte> frame, milliseconds timeout) override {
    return receive_whole(channel_, frame, timeout);
  }
  Result<void> check() const override { return channel_.check(); }
  void abort() override { channel_.abort(); }

 private:
  fabric::Channel channel_;
};

// Both sides know the size of a frame, and so which way it takes. The channel tells when the peer is lost.
class MappedLink final : public Link {
 public:
  MappedLink(fabric::Channel channel, std::unique_ptr<SharedMailboxes> memory, bool is_maker, milliseconds timeout)
      : channel_(std::move(channel)),
        memory_(std::move(memory)),
        out_(is_maker ? memory_->from_maker() : memory_->to_maker()),
        in_(is_maker ? memory_->to_maker() : memory_->from_maker()),
        timeout_(timeout),
        interruption_([this] { return channel_.check(); }) {}

  Result<void> send(std::span<const std::byte> frame) override {
    if (frame.size() > Mailbox::kSlotBytes) return channel_.send(frame);
    TROUPE_RETURN_IF_ERROR(channel_.check());
    return put(out_, frame, timeout_, interruption_);
  }
  Result<void> receive(std::span<std::byte> frame, milliseconds timeout) override {
    if (frame.size() > Mailbox::kSlotBytes) return receive_whole(channel_, frame, timeout);
    TROUPE_RETURN_IF_ERROR(channel_.check());
    return take(in_, frame, timeout, interruption_);
  }
  Result<void> check() const override { return channel_.check(); }
  void abort() override {
    channel_.abort();
    wake(out_);
    wake(in_);
  }

 private:
  fabric::Channel channel_;
  const std::unique_ptr<SharedMailboxes> memory_;
  Mailbox& out_;
  Mailbox& in_;
  const milliseconds timeout_;
  const Interruption interruption_;
};

// Where memory can be shared and process ids mean the same. Another network namespace stands for another host.
using HostName = std::array<char, 128>;

HostName this_host() {
  std::string name;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), name);
  for (const char* space : {"/proc/self/ns/pid", "/proc/self/ns/net"}) {
    char target[64];
    const ssize_t size = ::readlink(space, target, sizeof target);
    if (size > 0) name += " " + std::string(target, static_cast<std::size_t>(size));
  }
  HostName host{};
  std::copy_n(name.begin(), std::min(name.size(), host.size()), host.begin());
  return host;
}

struct Invitation {
  HostName host;
  SharedMailboxes::Offer offer;  // a file of -1: none
};
static_assert(std::is_trivially_copyable_v<Invitation>);

// Of the lower rank of a pair, to the higher one.
Result<std::unique_ptr<SharedMailboxes>> invite(fabric::Channel& channel, const HostName& host) {
  Invitation invitation{};
  invitation.host = host;
  invitation.offer.file = -1;
  std::unique_ptr<SharedMailboxes> memory;
  if (auto made = SharedMailboxes::make(); made.ok()) {
    memory = std::move(made).value();
    invitation.offer = memory->offer();
  } else {
    spdlog::warn("ranks exchange over the fabric only: {}", made.error().message);
  }
  TROUPE_RETURN_IF_ERROR(channel.send(std::as_bytes(std::span(&invitation, 1))));
  return memory;
}

// Of the higher rank. Null when the two cannot share memory.
Result<std::unique_ptr<SharedMailboxes>> accept(fabric::Channel& channel, const HostName& host, milliseconds timeout) {
  Invitation invitation{};
  TROUPE_RETURN_IF_ERROR(receive_whole(channel, std::as_writable_bytes(std::span(&invitation, 1)), timeout));
  std::unique_ptr<SharedMailboxes> memory;
  if (invitation.host == host && invitation.offer.file >= 0) {
    if (auto opened = SharedMailboxes::open(invitation.offer); opened.ok()) memory = std::move(opened).value();
  }
  const std::byte answer{memory != nullptr};
  TROUPE_RETURN_IF_ERROR(channel.send({&answer, 1}));
  return memory;
}

}  // namespace

// Nobody waits for what another rank sends only after waiting itself: all invitations are out before any is awaited,
// and all are answered before any answer is.
Result<std::vector<std::unique_ptr<Link>>> make_links(std::uint32_t rank, std::vector<fabric::Channel> channels,
                                                      milliseconds timeout) {
  const HostName host = this_host();
  std::vector<std::unique_ptr<SharedMailboxes>> memories(channels.size());
  for (std::size_t peer = rank + 1; peer < channels.size(); ++peer) {
    TROUPE_ASSIGN_OR_RETURN(memories[peer], invite(channels[peer], host));
  }
  for (std::size_t peer = 0; peer < rank; ++peer) {
    TROUPE_ASSIGN_OR_RETURN(memories[peer], accept(channels[peer], host, timeout));
  }
  for (std::size_t peer = rank + 1; peer < channels.size(); ++peer) {
    std::byte answer{};
    TROUPE_RETURN_IF_ERROR(receive_whole(channels[peer], {&answer, 1}, timeout));
    if (answer != std::byte{1}) memories[peer].reset();
    if (memories[peer]) memories[peer]->close_file();
  }
  std::vector<std::unique_ptr<Link>> links(channels.size());
  for (std::size_t peer = 0; peer < channels.size(); ++peer) {
    if (peer == rank) continue;
    if (memories[peer]) {
      links[peer] =
          std::make_unique<MappedLink>(std::move(channels[peer]), std::move(memories[peer]), peer > rank, timeout);
    } else {
      links[peer] = std::make_unique<ChannelLink>(std::move(channels[peer]));
    }
  }
  return links;
}

}  // namespace troupe::collective
