#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/fabric/frame.h"
#include "runtime/fabric/handshake.h"
#include "runtime/fabric/ucx.h"

namespace troupe::fabric::test {

// A bare UCX client that sends whatever it is told to, one call after the other on the test's thread.
class HostileClient {
 public:
  explicit HostileClient(const std::string& endpoint);
  ~HostileClient();
  HostileClient(const HostileClient&) = delete;
  HostileClient& operator=(const HostileClient&) = delete;

  // Sends these bytes as one active message; pieces of a lane have numbers of their own.
  void send(std::span<const std::byte> header, std::span<const std::byte> body = {}, std::uint64_t number = kFrames,
            unsigned flags = UCP_AM_SEND_FLAG_EAGER);
  void send(const FrameBytes& frame) { send(frame.head()); }
  // Plays the caller's part of the handshake to the end.
  void join(const std::string& secret, std::uint64_t fingerprint);
  // Of a member: header of the next ordered frame.
  FrameHeader next(FrameKind kind);
  // Of a member: sends a piece of a body in the lane of actors.
  void send_piece(std::size_t bytes, unsigned flags = UCP_AM_SEND_FLAG_EAGER);
  // Waits for it.
  bool is_closed_by_peer();

 private:
  static ucs_status_t on_frame(void* self, const void* header, std::size_t header_bytes, void*, std::size_t,
                               const ucp_am_recv_param_t*);
  static void on_error(void* self, ucp_ep_h, ucs_status_t);
  std::vector<std::byte> receive(FrameKind kind);  // the metadata of the next such frame

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_ep_h ep_ = nullptr;
  bool is_closed_ = false;
  std::vector<std::vector<std::byte>> frames_;
  std::uint64_t remote_number_ = 0;
  std::uint64_t remote_pieces_ = 0;
  std::uint64_t sequence_ = 0;
};

struct Attack {
  const char* name;
  void (*run)(HostileClient& client);
};
extern const std::vector<Attack> kStrangerAttacks;  // by one that knows no secret
extern const std::vector<Attack> kMemberAttacks;    // by one that has joined

}  // namespace troupe::fabric::test
