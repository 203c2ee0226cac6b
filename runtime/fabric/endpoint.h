#pragma once

#include <caf/actor_control_block.hpp>
#include <caf/error.hpp>
#include <caf/mailbox_element.hpp>

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "runtime/fabric/buffer.h"
#include "runtime/fabric/channel_state.h"
#include "runtime/fabric/credit_return.h"
#include "runtime/fabric/error_frame.h"
#include "runtime/fabric/fabric_context.h"
#include "runtime/fabric/frame.h"
#include "runtime/fabric/joined_frame.h"
#include "runtime/fabric/node_id.h"

namespace troupe::fabric {

// Sends frames to one peer, and keeps them until UCX is done with them. The fabric's thread only.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  // False when the connection is broken; the frame is gone then.
  virtual bool transmit(FrameBytes frame) = 0;
  // Sends more of the bodies that go in pieces; false when nothing could be sent.
  virtual bool advance() = 0;
  // Whether a body of this lane still goes in pieces: no other ordered frame may be transmitted in it.
  virtual bool is_occupied(Lane lane) const = 0;
  virtual std::size_t in_flight() const = 0;
};

// One live peer: proxies of its actors, requests that wait for its answer, ordered lanes with credit. It dies once
// and is never revived: a peer that comes back is another endpoint.
class Endpoint : public std::enable_shared_from_this<Endpoint> {
 public:
  Endpoint(std::shared_ptr<FabricContext> context, NodeId node, std::string address, std::uint64_t remote_credit);
  ~Endpoint();

  // ---- Any thread ----
  const NodeId& node() const { return node_; }
  const std::string& address() const { return address_; }
  bool alive() const { return alive_.load(std::memory_order_acquire); }

  // The proxy of actor `number`; null when the peer is dead or limit proxies_per_peer is reached.
  caf::strong_actor_ptr proxy(std::uint64_t number);
  void send(std::uint64_t destination, caf::mailbox_element_ptr element);
  void send_error(std::uint64_t destination, std::uint64_t source, caf::message_id id, const caf::error& reason,
                  FrameKind kind = FrameKind::kError);
  // kMonitor, kLink, kUnlink about `proxy`.
  void send_control(FrameKind kind, caf::strong_actor_ptr proxy, caf::strong_actor_ptr local);
  Result<void> send_channel(std::uint64_t channel, std::span<const std::byte> bytes);
  void send_channel_abort(std::uint64_t channel);
  std::shared_ptr<ChannelState> open_channel(std::uint64_t channel);
  void close_channel(std::uint64_t channel);

  // ---- The fabric's thread ----
  void attach_sink(FrameSink* sink);  // the first one is used for sending
  bool sends_through(const FrameSink& sink) const { return sink_ == &sink; }
  // Sends what credit allows; false when nothing could be sent.
  bool pump();
  bool accepts(const FrameHeader& header);  // sequence and credit; counts it
  CreditReturn& credit(Lane lane) { return *credits_[static_cast<std::size_t>(lane)]; }
  std::shared_ptr<ReleaseListener> credit_listener(Lane lane) { return credits_[static_cast<std::size_t>(lane)]; }
  void credit_arrived(Lane lane, std::uint64_t bytes);
  void return_credit(Lane lane);
  void heartbeat();
  bool idle() const;  // nothing waits to be sent
  // Whether `response` answers a pending request of actor `source`, which is pending no more then.
  bool settle(std::uint64_t source, caf::message_id response);
  void forget_dead_requesters();
  void pin(const caf::strong_actor_ptr& proxy);
  void actor_died(std::uint64_t number, caf::error reason);  // theirs
  bool watch(std::uint64_t number);                          // false if it is watched already; until its kDown is sent
  void channel_frame(std::uint64_t channel, Attachment bytes);
  void channel_aborted(std::uint64_t channel);  // by them
  // Fails everything that waits for this peer. Idempotent.
  void die(const std::string& reason);

  class SendTask;

 private:
  struct SendLane {
    std::deque<std::unique_ptr<SendTask>> queue;
    std::uint64_t next_sequence = 0;
    std::uint64_t unreturned = 0;         // sent, and not given back by the peer
    bool asked = false;                   // kCreditWanted is on its way
    std::uint64_t expected_sequence = 0;  // of received frames
    std::atomic<std::uint64_t> queued_bytes{0};
  };
  struct PendingKey {
    std::uint64_t source;
    std::uint64_t request;
    bool operator==(const PendingKey&) const = default;
  };
  struct PendingHash {
    std::size_t operator()(const PendingKey& key) const noexcept {
      return key.source * 0x9e3779b97f4a7c15 ^ key.request;
    }
  };
  struct Pending {
    caf::strong_actor_ptr sender;
    caf::message_id id;
  };
  friend class SendTask;

  SendLane& lane(Lane lane) { return lanes_[static_cast<std::size_t>(lane)]; }
  bool reserve(Lane lane, std::uint64_t cost);  // of send_queue_bytes
  void post(std::unique_ptr<SendTask> task);
  void post_always(Lane which, std::unique_ptr<SendTask> task);  // whatever is queued already
  void admit(std::unique_ptr<SendTask> task);
  void control(FrameKind kind, Lane lane, std::uint64_t value);

  const std::shared_ptr<FabricContext> context_;
  const NodeId node_;
  const caf::node_id caf_node_;
  const std::string address_;
  const std::uint64_t remote_credit_;
  std::atomic<bool> alive_{true};

  std::mutex mutex_;  // of proxies_, channels_, closed_channels_, and of alive_ turning false
  std::unordered_map<std::uint64_t, caf::weak_actor_ptr> proxies_;
  std::unordered_map<std::uint64_t, std::shared_ptr<ChannelState>> channels_;
  std::unordered_set<std::uint64_t> closed_channels_;
  std::deque<std::uint64_t> closed_channel_order_;

  FrameSink* sink_ = nullptr;
  std::array<SendLane, kLanes> lanes_;
  FrameJoiner joiner_;  // empty between calls of pump()
  std::array<std::shared_ptr<CreditReturn>, kLanes> credits_;
  static constexpr std::size_t kFirstSweep = 1024;
  std::unordered_map<PendingKey, Pending, PendingHash> pending_;
  std::size_t next_sweep_ = kFirstSweep;  // so many pending requests: look for those whose requester is dead
  std::unordered_map<std::uint64_t, caf::strong_actor_ptr> pinned_;
  std::unordered_set<std::uint64_t> watched_;
};

}  // namespace troupe::fabric
