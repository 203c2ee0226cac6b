#include "runtime/fabric/switchboard.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/log.h"
#include "runtime/fabric/joined_frame.h"

namespace troupe::fabric {
namespace {

constexpr auto kFarewell = std::chrono::milliseconds(500);
constexpr auto kStrangerLogInterval = std::chrono::seconds(1);
constexpr const char* kGoodbye = "it said goodbye";

}  // namespace

Switchboard::Switchboard(std::shared_ptr<FabricContext> context, std::shared_ptr<InlineUnit> unit, NodeId node,
                         std::string secret, std::shared_ptr<PeerTable> peers, Lost lost)
    : context_(std::move(context)),
      unit_(std::move(unit)),
      node_(std::move(node)),
      secret_(std::move(secret)),
      peers_(std::move(peers)),
      lost_(std::move(lost)),
      delivery_(context_, unit_),
      heartbeat_(std::chrono::milliseconds(context_->limits.heartbeat_interval_ms),
                 std::chrono::milliseconds(context_->limits.heartbeat_timeout_ms)) {}

Switchboard::~Switchboard() = default;

UcxWorker::Callbacks Switchboard::callbacks() { return {this, &Switchboard::on_frame, &Switchboard::on_connection}; }

ucs_status_t Switchboard::on_frame(void* self, const void* header, std::size_t header_bytes, void* data,
                                   std::size_t bytes, const ucp_am_recv_param_t* param) {
  return static_cast<Switchboard*>(self)->frame_arrived({static_cast<const std::byte*>(header), header_bytes}, data,
                                                        bytes, *param);
}

void Switchboard::on_connection(ucp_conn_request_h request, void* self) {
  static_cast<Switchboard*>(self)->requests_.push_back(request);
}

// ---- Connections ----

void Switchboard::accept(ucp_conn_request_h request) {
  auto strangers = std::count_if(connections_.begin(), connections_.end(), [](const auto& entry) {
    return entry.second->state != Connection::State::kEstablished;
  });
  if (farewell_ != Farewell::kNone || static_cast<std::uint64_t>(strangers) >= context_->limits.peers) {
    return worker_->reject(request);
  }
  auto added = add(Role::kListener, Connection::State::kAwaitingHello, context_->limits.handshake_timeout_ms);
  if (!added) return worker_->reject(request);
  auto& connection = **added;
  if (auto answered = connection.answer(*worker_, request); !answered) {
    return break_connection(connection, answered.error().message);
  }
  by_endpoint_[connection.ep] = &connection;
}

Result<Connection*> Switchboard::add(Role role, Connection::State state, std::uint64_t timeout_ms) {
  TROUPE_ASSIGN_OR_RETURN(auto number, random_number());
  // By chance, so that what is still on its way to an earlier connection comes to nobody.
  std::uint64_t pieces = 0;
  do {
    TROUPE_ASSIGN_OR_RETURN(auto random, random_number());
    pieces = kFirstPieces + random % (kLastPieces - kFirstPieces) / 2 * 2;
  } while (std::any_of(connections_.begin(), connections_.end(),
                       [&](const auto& entry) { return entry.second->pieces == pieces; }));
  auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  auto& added = connections_[number];
  added = std::make_unique<Connection>(*this, role, state, number, pieces, deadline);
  return added.get();
}

Connection* Switchboard::find(std::uint64_t number, ucp_ep_h reply) {
  if (last_ && last_->number == number) return last_;
  if (auto known = connections_.find(number); known != connections_.end()) return last_ = known->second.get();
  // A caller's first frame cannot carry our number yet.
  if (auto known = by_endpoint_.find(reply); known != by_endpoint_.end()) return known->second;
  return nullptr;
}

void Switchboard::break_connection(Connection& connection, const std::string& reason) {
  if (!connection.broken.empty() || connection.state >= Connection::State::kClosing) return;
  connection.broken = reason.empty() ? "closed" : reason;
  any_broken_ = true;
}

void Switchboard::lose(const std::shared_ptr<Endpoint>& endpoint, const std::string& reason) {
  if (!endpoint->alive()) return;
  for (auto& [number, connection] : connections_) {
    if (connection->endpoint == endpoint) break_connection(*connection, reason);
  }
  heartbeat_.remove(endpoint->node().incarnation);
  peers_->remove(endpoint->node());
  endpoint->die(reason);
  if (farewell_ == Farewell::kNone) {
    spdlog::log(reason == kGoodbye ? spdlog::level::info : spdlog::level::warn, "fabric: lost {}: {}",
                to_string(endpoint->node()), reason);
    lost_(endpoint->node(), reason);
  }
}

void Switchboard::close_broken() {
  while (std::exchange(any_broken_, false)) {
    for (auto& [number, owned] : connections_) {
      auto& connection = *owned;
      if (connection.broken.empty() || connection.state >= Connection::State::kClosing) continue;
      if (connection.endpoint) {
        lose(connection.endpoint, connection.broken);
      } else if (!connection.done) {
        spdlog::warn("fabric: closed a connection in its handshake: {}", connection.broken);
      }
      if (connection.done) {
        auto code = connection.refusal;
        connection.done->set_value(
            Error{code, "cannot connect to " + printable(connection.dialled) + ": " + connection.broken, {}});
        connection.done.reset();
      }
      by_endpoint_.erase(connection.ep);
      if (last_ == &connection) last_ = nullptr;
      connection.incoming = {};
      connection.close();
      any_closing_ = true;
    }
  }
}

// ---- The loop ----

bool Switchboard::pump() {
  bool busy = false;
  for (auto request : std::exchange(requests_, {})) {
    accept(request);
    busy = true;
  }
  for (auto& [number, connection] : connections_) {
    if (connection->state == Connection::State::kEstablished && connection->is_sender()) {
      busy |= connection->endpoint->pump();
    }
  }
  if (any_broken_) {
    close_broken();
    busy = true;
  }
  if (any_closing_) {
    std::erase_if(connections_, [](auto& entry) {
      return entry.second->state >= Connection::State::kClosing && entry.second->closed();
    });
    any_closing_ = std::any_of(connections_.begin(), connections_.end(),
                               [](auto& entry) { return entry.second->state >= Connection::State::kClosing; });
  }
  return busy;
}

std::chrono::steady_clock::time_point Switchboard::tick(Clock::time_point now) {
  if (now >= next_heartbeat_) {
    auto verdict = heartbeat_.check(now);
    next_heartbeat_ = verdict.next;
    for (auto& endpoint : peers_->all()) {
      auto silent = std::find(verdict.silent.begin(), verdict.silent.end(), endpoint->node().incarnation);
      if (silent != verdict.silent.end()) {
        lose(endpoint, "silent for longer than limit heartbeat_timeout_ms");
      } else {
        endpoint->heartbeat();
      }
    }
  }
  auto next = next_heartbeat_;
  for (auto& [number, connection] : connections_) {
    if (connection->state >= Connection::State::kEstablished) continue;
    if (now < connection->deadline) {
      next = std::min(next, connection->deadline);
    } else {
      bool is_caller = connection->role == Role::kCaller;
      connection->refusal = ErrorCode::kDeadlineExceeded;
      break_connection(*connection, is_caller ? "no answer within limit connect_timeout_ms"
                                              : "no valid handshake within limit handshake_timeout_ms");
    }
  }
  close_broken();
  return next;
}

bool Switchboard::finish() {
  auto now = Clock::now();
  auto peers = peers_->all();
  auto idle = [&] {
    return std::all_of(peers.begin(), peers.end(), [](auto& peer) { return peer->idle(); }) &&
           std::all_of(connections_.begin(), connections_.end(),
                       [](auto& entry) { return entry.second->in_flight() == 0; });
  };
  switch (farewell_) {
    case Farewell::kNone:
      farewell_ = Farewell::kFlush;
      farewell_deadline_ = now + kFarewell;
      return false;
    case Farewell::kFlush:
      if (!idle() && now < farewell_deadline_) return false;
      // Through each of them: a peer that sees any of its connections close believes the node lost.
      for (auto& [number, connection] : connections_) {
        FrameHeader bye;
        bye.kind = FrameKind::kBye;
        if (connection->state == Connection::State::kEstablished)
          connection->transmit(FrameBytes::of_metadata(bye, {}));
      }
      farewell_ = Farewell::kBye;
      return false;
    case Farewell::kBye:
      if (!idle() && now < farewell_deadline_) return false;
      for (auto& [number, connection] : connections_) break_connection(*connection, "this node stops");
      for (auto request : std::exchange(requests_, {})) worker_->reject(request);
      farewell_ = Farewell::kClose;
      return false;
    case Farewell::kClose: return connections_.empty();
  }
  return true;
}

// ---- Frames ----

void Switchboard::stranger(const std::string& what) {
  Counters::add(context_->counters->rejected_frames);
  auto now = Clock::now();
  if (now - last_stranger_ < kStrangerLogInterval) return;  // a flood of frames must not become a flood of lines
  last_stranger_ = now;
  spdlog::warn("fabric: dropped a frame of no known connection: {}", what);
}

ucs_status_t Switchboard::frame_arrived(std::span<const std::byte> am_header, void* data, std::size_t bytes,
                                        const ucp_am_recv_param_t& param) {
  bool is_rendezvous = param.recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
  auto taken = is_rendezvous ? UCS_ERR_REJECTED : UCS_OK;  // tells UCX to drop a body that has not come yet
  auto reply = param.recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? param.reply_ep : nullptr;
  std::uint64_t number = 0;
  if (am_header.size() >= sizeof(FrameHeader)) {
    std::memcpy(&number, am_header.data() + offsetof(FrameHeader, connection), sizeof(number));
  }
  auto* connection = find(number, reply);
  auto frame = parse_frame(am_header, bytes, context_->limits);
  if (!connection) {
    stranger(frame ? "unknown connection number" : frame.error().message);
    return taken;
  }
  if (!connection->broken.empty() || connection->state >= Connection::State::kClosing) return taken;
  if (is_rendezvous || !frame) {
    refuse(*connection, frame ? "a body by rendezvous" : frame.error().message);
    return taken;
  }
  Counters::add(context_->counters->bytes_received, am_header.size() + bytes);
  auto kind = frame->header.kind;
  std::span body(static_cast<const std::byte*>(data), bytes);
  if (kind >= FrameKind::kHello) {
    handshake_frame(*connection, *frame);
  } else if (connection->state != Connection::State::kEstablished) {
    refuse(*connection, "spoke before it proved the secret");
  } else {
    heartbeat_.heard(connection->remote.node.incarnation);
    if (is_ordered(kind)) {
      ordered_frame(*connection, *frame, body);
    } else if (kind == FrameKind::kJoined) {
      joined_frame(*connection, frame->header, body);
    } else {
      control_frame(*connection, frame->header);
    }
  }
  return UCS_OK;
}

void Switchboard::refuse(Connection& connection, const std::string& reason) {
  Counters::add(context_->counters->rejected_frames);
  break_connection(connection, reason);
}

void Switchboard::control_frame(Connection& connection, const FrameHeader& header) {
  auto& endpoint = *connection.endpoint;
  switch (header.kind) {
    case FrameKind::kCredit: endpoint.credit_arrived(header.lane, header.message_id); break;
    case FrameKind::kCreditWanted:
      if (endpoint.credit(header.lane).want()) endpoint.return_credit(header.lane);
      break;
    case FrameKind::kSealed: seal(connection, header.lane); break;
    case FrameKind::kBye: break_connection(connection, kGoodbye); break;
    default: break;  // kHeartbeat has said what it says by arriving
  }
}

void Switchboard::joined_frame(Connection& connection, const FrameHeader& joined, std::span<const std::byte> body) {
  auto walked = for_each_record(body, [&](const FrameRecord& record) {
    auto frame = parse_frame(record.head, record.body.size(), context_->limits);
    if (!frame) {
      refuse(connection, frame.error().message);
    } else if (!is_ordered(frame->header.kind) || frame->header.lane != joined.lane || frame->in_pieces()) {
      refuse(connection, "a record of a joined frame is not a whole ordered frame of its lane");
    } else {
      ordered_frame(connection, *frame, record.body);
    }
    return connection.broken.empty();
  });
  if (!walked) refuse(connection, walked.error().message);
}

void Switchboard::ordered_frame(Connection& connection, FrameView& frame, std::span<const std::byte> body) {
  const auto& header = frame.header;
  auto& endpoint = *connection.endpoint;
  auto& incoming = connection.incoming[static_cast<std::size_t>(header.lane)];
  if (incoming || !endpoint.accepts(header)) return refuse(connection, "frame out of order or beyond its credit");
  Arrival arrival;
  arrival.header = header;
  arrival.attachment_sizes = std::move(frame.attachment_sizes);
  constexpr std::size_t kAlignment = 64;  // attachments are as aligned as Attachment::allocate() makes them
  arrival.body_offset = (frame.inline_metadata.size() + kAlignment - 1) / kAlignment * kAlignment;
  if (auto total = arrival.body_offset + header.body_bytes; total > 0) {
    arrival.buffer = Buffer::allocate(total);
    arrival.buffer.on_release(endpoint.credit_listener(header.lane), frame_cost(header));
    if (!frame.inline_metadata.empty()) {
      std::memcpy(arrival.buffer.data(), frame.inline_metadata.data(), frame.inline_metadata.size());
    }
  }
  if (frame.in_pieces()) {
    incoming = std::move(arrival);
  } else {
    arrival.append(body);
    deliver(connection, arrival);
  }
}

void Switchboard::piece_arrived(Connection& connection, Lane lane, std::span<const std::byte> piece) {
  if (!connection.broken.empty() || connection.state != Connection::State::kEstablished) return;
  auto& incoming = connection.incoming[static_cast<std::size_t>(lane)];
  if (!incoming) return stranger("a piece of no body");
  Counters::add(context_->counters->bytes_received, piece.size());
  heartbeat_.heard(connection.remote.node.incarnation);
  if (!incoming->append(piece)) refuse(connection, "a body longer than its frame announced");
}

void Switchboard::seal(Connection& connection, Lane lane) {
  auto incoming = std::exchange(connection.incoming[static_cast<std::size_t>(lane)], std::nullopt);
  if (!incoming || !incoming->is_complete()) return refuse(connection, "a body shorter than its frame announced");
  deliver(connection, *incoming);
}

void Switchboard::deliver(Connection& connection, Arrival& arrival) {
  bool has_buffer = static_cast<bool>(arrival.buffer);
  auto delivered = delivery_.deliver(*connection.endpoint, arrival);
  if (!has_buffer) connection.endpoint->credit(arrival.header.lane).buffer_released(frame_cost(arrival.header));
  if (!delivered) refuse(connection, delivered.error().message);
}

}  // namespace troupe::fabric
