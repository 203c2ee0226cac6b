#include "runtime/fabric/connection.h"

#include <cstring>

#include "runtime/fabric/switchboard.h"

namespace troupe::fabric {
namespace {

// What UCX holds of a frame that it has not sent completely.
struct SendOperation {
  Connection* connection;
  FrameBytes frame;
  std::vector<ucp_dt_iov_t> parts;
};

struct ReceiveOperation {
  Connection* connection;
  std::shared_ptr<Arrival> arrival;
};

}  // namespace

Result<void> Connection::dial(ucp_worker_h worker, const SocketAddress& address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address.storage);
  params.sockaddr.addrlen = address.length;
  return create(worker, params);
}

Result<void> Connection::answer(ucp_worker_h worker, ucp_conn_request_h request) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  return create(worker, params);
}

Result<void> Connection::create(ucp_worker_h worker, ucp_ep_params_t params) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {&Connection::failed, this};
  if (auto status = ucp_ep_create(worker, &params, &ep); status != UCS_OK) {
    ep = nullptr;
    return unavailable(std::string("UCX: ") + ucs_status_string(status));
  }
  return {};
}

bool Connection::transmit(FrameBytes frame) {
  if (!broken.empty() || !ep) return false;
  auto operation = std::make_unique<SendOperation>(SendOperation{this, std::move(frame), {}});
  auto& header = operation->frame.header();
  header.connection = remote_number;

  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = &Connection::send_done;
  param.user_data = operation.get();
  // Before the numbers are exchanged UCX must say from whom a frame comes.
  if (state != State::kEstablished) param.flags |= UCP_AM_SEND_FLAG_REPLY;
  // The records of a joined frame are taken from UCX's own buffer, whatever threshold a user sets.
  if (header.kind == FrameKind::kJoined) param.flags |= UCP_AM_SEND_FLAG_EAGER;
  if (param.flags != 0) param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
  const void* body = nullptr;
  std::size_t count = 0;
  const auto& parts = operation->frame.body();
  if (parts.size() == 1) {
    body = parts[0].data();
    count = parts[0].size();
  } else if (parts.size() > 1) {
    for (auto part : parts) operation->parts.push_back({const_cast<std::byte*>(part.data()), part.size()});
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    param.datatype = ucp_dt_make_iov();
    body = operation->parts.data();
    count = operation->parts.size();
  }
  auto head = operation->frame.head();
  auto request = ucp_am_send_nbx(ep, 0, head.data(), head.size(), body, count, &param);
  if (request == nullptr) return true;
  if (UCS_PTR_IS_ERR(request)) {
    board_.break_connection(*this, ucs_status_string(UCS_PTR_STATUS(request)));
    return false;
  }
  ++in_flight_;
  operation.release();  // send_done() takes it back
  return true;
}

void Connection::send_done(void* request, ucs_status_t, void* user_data) {
  std::unique_ptr<SendOperation> operation(static_cast<SendOperation*>(user_data));
  --operation->connection->in_flight_;  // a failure is also told to failed(), which decides
  ucp_request_free(request);
}

ucs_status_t Connection::receive_body(ucp_worker_h worker, void* descriptor, std::size_t bytes,
                                      const std::shared_ptr<Arrival>& arrival) {
  auto operation = std::make_unique<ReceiveOperation>(ReceiveOperation{this, arrival});
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = &Connection::receive_done;
  param.user_data = operation.get();
  auto request = ucp_am_recv_data_nbx(worker, descriptor, arrival->buffer.data() + arrival->body_offset, bytes, &param);
  if (request == nullptr) {
    arrival->ready = true;
  } else if (UCS_PTR_IS_ERR(request)) {
    board_.break_connection(*this, ucs_status_string(UCS_PTR_STATUS(request)));
  } else {
    ++receiving_;
    operation.release();  // receive_done() takes it back
  }
  return UCS_INPROGRESS;  // the descriptor belongs to the receive operation now
}

void Connection::receive_done(void* request, ucs_status_t status, std::size_t, void* user_data) {
  std::unique_ptr<ReceiveOperation> operation(static_cast<ReceiveOperation*>(user_data));
  auto& connection = *operation->connection;
  --connection.receiving_;
  ucp_request_free(request);
  if (status != UCS_OK) {
    connection.board_.break_connection(connection, ucs_status_string(status));
    return;
  }
  operation->arrival->ready = true;
  connection.board_.deliver_ready(connection, operation->arrival->header.lane);
}

void Connection::failed(void* self, ucp_ep_h, ucs_status_t status) {
  auto& connection = *static_cast<Connection*>(self);
  connection.board_.break_connection(connection, ucs_status_string(status));
}

void Connection::close() {
  state = State::kClosing;
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
  if (in_flight_ > 0 || receiving_ > 0) return false;
  state = State::kClosed;
  return true;
}

}  // namespace troupe::fabric
