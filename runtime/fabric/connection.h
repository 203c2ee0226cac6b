#pragma once

#include <array>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "runtime/fabric/endpoint.h"
#include "runtime/fabric/handshake.h"
#include "runtime/fabric/pieces.h"
#include "runtime/fabric/ucx.h"

namespace troupe::fabric {

class Switchboard;

// One UCX endpoint with its handshake. The fabric's thread only.
class Connection final : public FrameSink {
 public:
  enum class State { kHelloSent, kAwaitingHello, kChallengeSent, kProofSent, kEstablished, kClosing, kClosed };

  Connection(Switchboard& board, Role role, State state, std::uint64_t number, std::uint64_t pieces,
             std::chrono::steady_clock::time_point deadline)
      : board_(board), role(role), state(state), number(number), pieces(pieces), deadline(deadline) {}

  Result<void> dial(UcxWorker& worker, const SocketAddress& address);
  Result<void> answer(UcxWorker& worker, ucp_conn_request_h request);

  bool transmit(FrameBytes frame) override;
  bool advance() override;
  bool is_occupied(Lane lane) const override { return static_cast<bool>(outgoing_[static_cast<std::size_t>(lane)]); }
  std::size_t in_flight() const override { return in_flight_; }
  // Whether the peer's frames leave through this connection, and not through another to the same peer.
  bool is_sender() const { return endpoint && endpoint->sends_through(*this); }
  // Starts the end of the UCX endpoint; poll closed() until it is true.
  void close();
  bool closed();

 private:
  static void send_done(void* request, ucs_status_t status, void* operation);
  static void failed(void* self, ucp_ep_h, ucs_status_t status);
  template <std::size_t lane>
  static ucs_status_t on_piece(void* self, const void* header, std::size_t header_bytes, void* data, std::size_t bytes,
                               const ucp_am_recv_param_t* param);
  Result<void> create(UcxWorker& worker, ucp_ep_params_t params);

  // What UCX holds of an active message that it has not sent completely.
  struct SendOperation {
    Connection* connection;
    std::optional<FrameBytes> frame;         // a whole one
    std::shared_ptr<const FrameBytes> body;  // of which this is a piece
    std::vector<ucp_dt_iov_t> parts;
  };
  std::unique_ptr<SendOperation> operation();
  void recycle(std::unique_ptr<SendOperation> operation);
  // Hands an active message to UCX, with what keeps its memory.
  bool post(std::uint64_t active_message, std::span<const std::byte> head, const FrameParts& body,
            std::unique_ptr<SendOperation> operation);

  Switchboard& board_;
  UcxWorker* worker_ = nullptr;
  std::size_t in_flight_ = 0;  // sends that UCX still holds
  void* close_request_ = nullptr;
  std::array<OutgoingBody, kLanes> outgoing_;
  std::vector<std::unique_ptr<SendOperation>> spare_;

 public:
  const Role role;
  State state;
  const std::uint64_t number;                            // frames to us carry it
  const std::uint64_t pieces;                            // active message number of pieces to us, in lane 0
  const std::chrono::steady_clock::time_point deadline;  // of the handshake
  std::uint64_t remote_number = 0;                       // frames from us carry it
  std::uint64_t remote_pieces = 0;                       // active message number of pieces from us, in lane 0
  std::string broken;                                    // why it is to be closed; empty while it is not
  ErrorCode refusal = ErrorCode::kUnavailable;           // what a caller is told then
  ucp_ep_h ep = nullptr;
  Introduction remote;
  IntroductionWire caller_wire;
  IntroductionWire listener_wire;
  std::string dialled;
  std::shared_ptr<std::promise<Result<NodeId>>> done;   // of a caller, until it is known how it went
  std::shared_ptr<Endpoint> endpoint;                   // once established
  std::array<std::optional<Arrival>, kLanes> incoming;  // whose bodies come in pieces
};

}  // namespace troupe::fabric
