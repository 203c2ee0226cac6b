#include "runtime/fabric/connection.h"

#include "runtime/fabric/switchboard.h"

namespace troupe::fabric {
namespace {

// Pieces that wait in UCX for one peer: enough to keep a transport busy.
constexpr std::size_t kPiecesInFlight = 8;
// Pieces that one call of advance() sends, however fast the transport takes them: what comes in must have its turn.
constexpr std::size_t kPiecesAtOnce = 16;
// UCX's own header, and what a transport puts before it.
constexpr std::size_t kTransportBytes = 64;
constexpr std::size_t kSpareOperations = 32;

}  // namespace

Result<void> Connection::dial(UcxWorker& worker, const SocketAddress& address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address.storage);
  params.sockaddr.addrlen = address.length;
  return create(worker, params);
}

Result<void> Connection::answer(UcxWorker& worker, ucp_conn_request_h request) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  return create(worker, params);
}

Result<void> Connection::create(UcxWorker& worker, ucp_ep_params_t params) {
  TROUPE_RETURN_IF_ERROR(worker.receive(pieces, &Connection::on_piece<0>, this));
  TROUPE_RETURN_IF_ERROR(worker.receive(pieces + 1, &Connection::on_piece<1>, this));
  worker_ = &worker;
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {&Connection::failed, this};
  if (auto status = ucp_ep_create(worker.handle(), &params, &ep); status != UCS_OK) {
    ep = nullptr;
    return unavailable(std::string("UCX: ") + ucs_status_string(status));
  }
  return {};
}

std::unique_ptr<Connection::SendOperation> Connection::operation() {
  if (spare_.empty()) return std::make_unique<SendOperation>(SendOperation{this, {}, {}, {}});
  auto operation = std::move(spare_.back());
  spare_.pop_back();
  return operation;
}

void Connection::recycle(std::unique_ptr<SendOperation> operation) {
  if (spare_.size() >= kSpareOperations) return;
  operation->frame.reset();
  operation->body.reset();
  operation->parts.clear();
  spare_.push_back(std::move(operation));
}

bool Connection::post(std::uint64_t active_message, std::span<const std::byte> head, const FrameParts& body,
                      std::unique_ptr<SendOperation> operation) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.cb.send = &Connection::send_done;
  param.user_data = operation.get();
  param.flags = UCP_AM_SEND_FLAG_EAGER;  // whatever threshold a user sets
  // Before the numbers are exchanged UCX must say from whom a frame comes.
  if (state != State::kEstablished) param.flags |= UCP_AM_SEND_FLAG_REPLY;
  const void* data = nullptr;
  std::size_t count = 0;
  if (body.size() == 1) {
    data = body[0].data();
    count = body[0].size();
  } else if (body.size() > 1) {
    for (auto part : body) operation->parts.push_back({const_cast<std::byte*>(part.data()), part.size()});
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    param.datatype = ucp_dt_make_iov();
    data = operation->parts.data();
    count = operation->parts.size();
  }
  auto request =
      ucp_am_send_nbx(ep, static_cast<unsigned>(active_message), head.data(), head.size(), data, count, &param);
  if (request == nullptr) {
    recycle(std::move(operation));
    return true;
  }
  if (UCS_PTR_IS_ERR(request)) {
    board_.break_connection(*this, ucs_status_string(UCS_PTR_STATUS(request)));
    return false;
  }
  ++in_flight_;
  operation.release();  // send_done() takes it back
  return true;
}

bool Connection::transmit(FrameBytes frame) {
  if (!broken.empty() || !ep) return false;
  auto& header = frame.header();
  header.connection = remote_number;
  bool whole = !is_ordered(header.kind) ||
               frame.head().size() + header.body_bytes + kTransportBytes <= worker_->fragment_bytes();
  if (!whole) header.flags |= kInPieces;
  auto operation = this->operation();
  if (whole) {
    const auto& sent = operation->frame.emplace(std::move(frame));
    return post(kFrames, sent.head(), sent.body(), std::move(operation));
  }
  auto shared = std::make_shared<const FrameBytes>(std::move(frame));
  operation->body = shared;
  if (!post(kFrames, shared->head(), {}, std::move(operation))) return false;
  auto lane = static_cast<std::size_t>(shared->header().lane);
  outgoing_[lane] = OutgoingBody(std::move(shared));
  advance();
  return broken.empty();
}

bool Connection::advance() {
  if (!broken.empty() || !ep) return false;
  bool sent = false;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    auto& body = outgoing_[lane];
    for (std::size_t i = 0; body && i < kPiecesAtOnce && in_flight_ < kPiecesInFlight; ++i) {
      auto piece = body.next(worker_->fragment_bytes() - kTransportBytes);
      sent = true;
      if (!piece.empty()) {
        auto operation = this->operation();
        operation->body = body.frame();
        if (!post(remote_pieces + lane, {}, {piece}, std::move(operation))) return true;
        continue;
      }
      body = {};
      FrameHeader seal;
      seal.kind = FrameKind::kSealed;
      seal.lane = static_cast<Lane>(lane);
      if (!transmit(FrameBytes::of_metadata(seal, {}))) return true;
    }
  }
  return sent;
}

void Connection::send_done(void* request, ucs_status_t, void* user_data) {
  std::unique_ptr<SendOperation> operation(static_cast<SendOperation*>(user_data));
  auto& connection = *operation->connection;
  --connection.in_flight_;  // a failure is also told to failed(), which decides
  connection.recycle(std::move(operation));
  ucp_request_free(request);
}

template <std::size_t lane>
ucs_status_t Connection::on_piece(void* self, const void*, std::size_t header_bytes, void* data, std::size_t bytes,
                                  const ucp_am_recv_param_t* param) {
  auto& connection = *static_cast<Connection*>(self);
  if (header_bytes != 0 || param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
    connection.board_.stranger("malformed piece");
    return param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV ? UCS_ERR_REJECTED : UCS_OK;
  }
  connection.board_.piece_arrived(connection, static_cast<Lane>(lane), {static_cast<const std::byte*>(data), bytes});
  return UCS_OK;
}

void Connection::failed(void* self, ucp_ep_h, ucs_status_t status) {
  auto& connection = *static_cast<Connection*>(self);
  connection.board_.break_connection(connection, ucs_status_string(status));
}

void Connection::close() {
  state = State::kClosing;
  for (auto& body : outgoing_) body = {};
  if (!ep) return;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  auto request = ucp_ep_close_nbx(ep, &param);
  ep = nullptr;
  if (UCS_PTR_IS_PTR(request)) close_request_ = request;
}

bool Connection::closed() {
  if (state == State::kClosed) return true;
  if (close_request_) {
    if (ucp_request_check_status(close_request_) == UCS_INPROGRESS) return false;
    ucp_request_free(close_request_);
    close_request_ = nullptr;
  }
  if (in_flight_ > 0) return false;
  if (worker_) {
    worker_->ignore(pieces);
    worker_->ignore(pieces + 1);
  }
  state = State::kClosed;
  return true;
}

}  // namespace troupe::fabric
