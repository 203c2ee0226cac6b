#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/fabric/connection.h"
#include "runtime/fabric/delivery.h"
#include "runtime/fabric/endpoint.h"
#include "runtime/fabric/heartbeat.h"
#include "runtime/fabric/peer_table.h"
#include "runtime/fabric/progress.h"

namespace troupe::fabric {

// Connects connections with peers: runs handshakes, brings arriving frames to actors and channels, closes whoever
// breaks the rules, and buries the dead. Everything but connect() runs on the fabric's thread.
class Switchboard final : public ProgressClient {
 public:
  using Lost = std::function<void(const NodeId&, const std::string& reason)>;

  Switchboard(std::shared_ptr<FabricContext> context, std::shared_ptr<InlineUnit> unit, NodeId node, std::string secret,
              std::shared_ptr<PeerTable> peers, Lost lost);
  ~Switchboard() override;

  void set_worker(UcxWorker& worker) { worker_ = &worker; }
  UcxWorker::Callbacks callbacks();

  // The future holds the peer's identity when the handshake is over.
  void connect(const std::string& endpoint, std::shared_ptr<std::promise<Result<NodeId>>> done);

  bool pump() override;
  std::chrono::steady_clock::time_point tick(std::chrono::steady_clock::time_point now) override;
  bool finish() override;

 private:
  friend class Connection;
  using Clock = std::chrono::steady_clock;

  static ucs_status_t on_frame(void* self, const void* header, std::size_t header_bytes, void* data, std::size_t bytes,
                               const ucp_am_recv_param_t* param);
  static void on_connection(ucp_conn_request_h request, void* self);

  ucs_status_t frame_arrived(std::span<const std::byte> am_header, void* data, std::size_t bytes,
                             const ucp_am_recv_param_t& param);
  void accept(ucp_conn_request_h request);
  Connection* find(std::uint64_t number, ucp_ep_h reply);
  void stranger(const std::string& what);
  // Errors: kInternal (no random numbers).
  Result<Connection*> add(Role role, Connection::State state, std::uint64_t timeout_ms);

  void handshake_frame(Connection& connection, const FrameView& frame);
  void answer_hello(Connection& connection, const FrameView& frame);
  void answer_challenge(Connection& connection, const FrameView& frame);
  void check_proof(Connection& connection, const FrameView& frame);
  bool admit(Connection& connection);  // a proved peer
  void reject(Connection& connection, const std::string& reason);
  Introduction introduce(const Connection& connection, const Nonce& nonce) const;

  void joined_frame(Connection& connection, const FrameHeader& header, std::span<const std::byte> body);
  void control_frame(Connection& connection, const FrameHeader& header);
  // `body` is empty when it follows in pieces.
  void ordered_frame(Connection& connection, FrameView& frame, std::span<const std::byte> body);
  void piece_arrived(Connection& connection, Lane lane, std::span<const std::byte> piece);
  void seal(Connection& connection, Lane lane);
  void refuse(Connection& connection, const std::string& reason);  // a frame that breaks the rules
  void deliver(Connection& connection, Arrival& arrival);

  void break_connection(Connection& connection, const std::string& reason);  // closed by the next pump
  void lose(const std::shared_ptr<Endpoint>& endpoint, const std::string& reason);
  void close_broken();

  std::shared_ptr<FabricContext> context_;
  std::shared_ptr<InlineUnit> unit_;
  const NodeId node_;
  const std::string secret_;
  std::shared_ptr<PeerTable> peers_;
  Lost lost_;
  UcxWorker* worker_ = nullptr;
  std::unordered_map<std::uint64_t, std::unique_ptr<Connection>> connections_;  // by the number we gave them
  std::unordered_map<ucp_ep_h, Connection*> by_endpoint_;
  Connection* last_ = nullptr;  // of the last frame: the next one is likely its
  bool any_broken_ = false;
  bool any_closing_ = false;
  Delivery delivery_;
  Heartbeat heartbeat_;
  Clock::time_point next_heartbeat_{};
  std::vector<ucp_conn_request_h> requests_;  // taken from UCX's callback, where no endpoint may be created
  enum class Farewell { kNone, kFlush, kBye, kClose } farewell_ = Farewell::kNone;
  Clock::time_point farewell_deadline_{};
  Clock::time_point last_stranger_{};  // when an unattributable frame was last logged
};

}  // namespace troupe::fabric
