#pragma once

#include <chrono>
#include <deque>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "runtime/fabric/endpoint.h"
#include "runtime/fabric/handshake.h"
#include "runtime/fabric/ucx.h"

namespace troupe::fabric {

class Switchboard;

// A frame that came in, with memory of its own. A rendezvous is not ready until its bytes are here; what arrives
// after it waits.
struct Arrival {
  FrameHeader header;
  AttachmentSizes attachment_sizes;
  Buffer buffer;  // metadata, padded when it came in the header; then the attachments
  std::size_t body_offset = 0;
  bool ready = true;
};

// One UCX endpoint with its handshake. The fabric's thread only.
class Connection final : public FrameSink {
 public:
  enum class State { kHelloSent, kAwaitingHello, kChallengeSent, kProofSent, kEstablished, kClosing, kClosed };

  Connection(Switchboard& board, Role role, State state, std::uint64_t number,
             std::chrono::steady_clock::time_point deadline)
      : board_(board), role(role), state(state), number(number), deadline(deadline) {}

  Result<void> dial(ucp_worker_h worker, const SocketAddress& address);
  Result<void> answer(ucp_worker_h worker, ucp_conn_request_h request);

  bool transmit(FrameBytes frame) override;
  std::size_t in_flight() const override { return in_flight_; }
  // Whether the peer's frames leave through this connection, and not through another to the same peer.
  bool is_sender() const { return endpoint && endpoint->sends_through(*this); }
  // Starts the end of the UCX endpoint; poll closed() until it is true.
  void close();
  bool closed();

  // The bytes of `arrival` follow by rendezvous. Returns what the frame callback must return.
  ucs_status_t receive_body(ucp_worker_h worker, void* descriptor, std::size_t bytes,
                            const std::shared_ptr<Arrival>& arrival);

 private:
  static void send_done(void* request, ucs_status_t status, void* operation);
  static void receive_done(void* request, ucs_status_t status, std::size_t bytes, void* operation);
  static void failed(void* self, ucp_ep_h, ucs_status_t status);
  Result<void> create(ucp_worker_h worker, ucp_ep_params_t params);

  Switchboard& board_;
  std::size_t in_flight_ = 0;  // sends that UCX still holds
  std::size_t receiving_ = 0;  // rendezvous that UCX still fills
  void* close_request_ = nullptr;

 public:
  const Role role;
  State state;
  const std::uint64_t number;                            // frames to us carry it
  const std::chrono::steady_clock::time_point deadline;  // of the handshake
  std::uint64_t remote_number = 0;                       // frames from us carry it
  std::string broken;                                    // why it is to be closed; empty while it is not
  ErrorCode refusal = ErrorCode::kUnavailable;           // what a caller is told then
  ucp_ep_h ep = nullptr;
  Introduction remote;
  IntroductionWire caller_wire;
  IntroductionWire listener_wire;
  std::string dialled;
  std::shared_ptr<std::promise<Result<NodeId>>> done;     // of a caller, until it is known how it went
  std::shared_ptr<Endpoint> endpoint;                     // once established
  std::deque<std::shared_ptr<Arrival>> arrivals[kLanes];  // not delivered yet, in order
};

}  // namespace troupe::fabric
