#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include "runtime/base/result.h"

namespace troupe::fabric {

// "host:port" as an address UCX can use.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  // Resolves names. Errors: kInvalidArgument.
  static Result<SocketAddress> parse(const std::string& endpoint, bool to_listen);
  std::string text() const;
};

// The active message number of frames; pieces have others.
inline constexpr std::uint64_t kFrames = 0;

// One UCX context, worker and listener. All calls on the one thread that drives it, except construction.
class UcxWorker {
 public:
  struct Callbacks {
    void* argument;
    ucp_am_recv_callback_t on_frame;
    ucp_listener_conn_callback_t on_connection;
  };

  // Errors: kInvalidArgument, kUnavailable (address in use), kUnsupported (transports).
  static Result<std::unique_ptr<UcxWorker>> create(const std::string& listen, const std::string& transports,
                                                   Callbacks callbacks);
  ~UcxWorker();  // REQUIRES: every endpoint is closed
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  ucp_worker_h handle() const { return worker_; }
  const std::string& endpoint() const { return endpoint_; }  // really listened on
  int event_fd() const { return event_fd_; }
  // What one active message may hold, header and body, to go as one fragment of its transport.
  std::size_t fragment_bytes() const { return fragment_bytes_; }
  // Active messages with this number come to `callback`, until they are ignored.
  Result<void> receive(std::uint64_t number, ucp_am_recv_callback_t callback, void* argument);
  void ignore(std::uint64_t number);
  void reject(ucp_conn_request_h request) { ucp_listener_reject(listener_, request); }

 private:
  UcxWorker() = default;
  Result<void> open(const std::string& listen, const std::string& transports, const Callbacks& callbacks);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_listener_h listener_ = nullptr;
  int event_fd_ = -1;
  std::size_t fragment_bytes_ = 0;
  std::string endpoint_;
};

}  // namespace troupe::fabric
