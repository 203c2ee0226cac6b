#pragma once

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/fabric/channel.h"
#include "runtime/fabric/message.h"
#include "runtime/fabric/message_types.h"
#include "runtime/fabric/node_id.h"

namespace troupe::fabric {

struct FabricOptions {
  std::string node_name;               // at most 64 bytes of [A-Za-z0-9._-]
  std::string listen = "127.0.0.1:0";  // "host:port"; port 0 = any free one
  std::string secret;                  // of the cluster; peers prove that they know it, it is never sent
  Limits limits;                       // limits.spin_us: busy-poll so long before sleeping
  MessageTypes types;
  std::string transports;  // UCX names, such as "tcp" or "shm,tcp"; empty = "tcp"
};

struct FabricStats {
  std::uint64_t peers = 0;
  std::uint64_t messages_sent = 0;
  std::uint64_t messages_received = 0;
  std::uint64_t bytes_sent = 0;  // frames with their payload, channels included
  std::uint64_t bytes_received = 0;
  std::uint64_t dropped_stale = 0;          // for an incarnation that is gone
  std::uint64_t dropped_unknown_actor = 0;  // for an actor that this node does not have
  std::uint64_t dropped_overload = 0;       // refused by a limit: send_queue_bytes, pending_requests, proxies_per_peer
  std::uint64_t dropped_unencodable = 0;    // not a registered Message<T>
  std::uint64_t rejected_frames = 0;        // hostile or broken; their connections were closed
  std::uint64_t queue_bytes = 0;            // waiting for credit
  std::uint64_t unreleased_bytes = 0;       // received and still held by actors
};

// Settings without which actors wake up late: call before creating the actor system.
void configure(caf::actor_system_config& config);

// Actors over UCX: hands out CAF handles of actors in other processes, and serves those of this one to them.
// send, request, monitor, link, delegate and typed handles mean the same for both. Between two actors messages
// arrive in order, at most once; a peer that dies or stays silent becomes a down message to monitors and an error
// to pending requests.
//
// What travels: Message<T> of registered types, errors, empty results, and exit messages. Any other content is
// refused with an error to a request, and counted.
//
// Thread-safety: all functions, from any thread. The fabric must die before its actor system; handles may outlive
// it and then lead nowhere.
class Fabric {
 public:
  static Result<std::unique_ptr<Fabric>> start(caf::actor_system& system, FabricOptions options);
  ~Fabric();  // tells the peers, stops the thread, fails all that was pending

  const NodeId& node() const;
  const std::string& endpoint() const;  // "host:port" really listened on

  // Blocks for at most limits.connect_timeout_ms. Returns at once for a live peer at this endpoint.
  // Errors: kUnavailable (nobody there, refused), kDeadlineExceeded, kInvalidArgument (endpoint, secret, versions).
  Result<NodeId> connect(const std::string& endpoint);

  // Makes a local actor reachable as (this node, name), in place of an earlier one. Withdrawn when it dies.
  void publish(const std::string& name, caf::strong_actor_ptr actor);

  // The handle of a published actor, without a round trip: whether it exists shows with the first request or
  // monitor. On the own node the local actor, null if there is none. Null for a peer that is not connected.
  caf::strong_actor_ptr resolve(const NodeId& node, const std::string& name);

  // Runs this local actor's handlers on the fabric's thread when a remote message wakes it, which saves two thread
  // switches. Only for short handlers that never block.
  void run_inline(const caf::strong_actor_ptr& actor);

  // Raw bytes to whoever opens the same id on `peer`, past the actors. An id is used once between two nodes.
  // For a peer that is not connected the channel fails with kUnavailable.
  Channel open_channel(const NodeId& peer, std::uint64_t channel_id);

  // Called on the fabric's thread when a connected peer is gone. Must be short and must not call the fabric's
  // blocking functions.
  void on_peer_lost(std::function<void(const NodeId& peer, const std::string& reason)> observer);

  FabricStats stats() const;

 private:
  class Impl;
  explicit Fabric(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe::fabric
