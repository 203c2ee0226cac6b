// The part of the Switchboard that proves who a peer is before any of its frames is believed.

#include <cstring>

#include "runtime/base/log.h"
#include "runtime/fabric/switchboard.h"

namespace troupe::fabric {
namespace {

constexpr std::size_t kRejectTextBytes = 200;

template <class Wire>
std::optional<Wire> metadata_as(const FrameView& frame) {
  if (frame.inline_metadata.size() != sizeof(Wire)) return std::nullopt;
  Wire wire;
  std::memcpy(&wire, frame.inline_metadata.data(), sizeof(Wire));
  return wire;
}

template <class Wire>
FrameBytes frame_of(FrameKind kind, const Wire& wire) {
  FrameHeader header;
  header.kind = kind;
  return FrameBytes::of_metadata(header, std::as_bytes(std::span(&wire, 1)));
}

}  // namespace

void Switchboard::connect(const std::string& endpoint, std::shared_ptr<std::promise<Result<NodeId>>> done) {
  if (farewell_ != Farewell::kNone) return done->set_value(cancelled("the fabric has stopped"));
  if (auto peer = peers_->find_address(endpoint)) return done->set_value(peer->node());
  auto address = SocketAddress::parse(endpoint, false);
  if (!address) return done->set_value(address.error());
  auto nonce = random_nonce();
  if (!nonce) return done->set_value(nonce.error());
  auto added = add(Role::kCaller, Connection::State::kHelloSent, context_->limits.connect_timeout_ms);
  if (!added) return done->set_value(added.error());
  auto& connection = **added;
  connection.dialled = endpoint;
  connection.done = std::move(done);
  auto wire = encode(introduce(connection, *nonce));
  if (!wire) return break_connection(connection, wire.error().message);
  connection.caller_wire = *wire;
  if (auto dialled = connection.dial(*worker_, *address); !dialled) {
    return break_connection(connection, dialled.error().message);
  }
  by_endpoint_[connection.ep] = &connection;
  connection.transmit(frame_of(FrameKind::kHello, *wire));
}

Introduction Switchboard::introduce(const Connection& connection, const Nonce& nonce) const {
  return {node_,
          worker_->endpoint(),
          context_->types.fingerprint(),
          connection.number,
          context_->limits.credit_bytes,
          connection.pieces,
          nonce};
}

void Switchboard::reject(Connection& connection, const std::string& reason) {
  FrameHeader header;
  header.kind = FrameKind::kReject;
  auto text = reason.substr(0, kRejectTextBytes);
  connection.transmit(FrameBytes::of_metadata(header, std::as_bytes(std::span(text))));
  break_connection(connection, reason);
}

void Switchboard::handshake_frame(Connection& connection, const FrameView& frame) {
  using State = Connection::State;
  auto kind = frame.header.kind;
  if (kind == FrameKind::kHello && connection.state == State::kAwaitingHello) return answer_hello(connection, frame);
  if (kind == FrameKind::kChallenge && connection.state == State::kHelloSent)
    return answer_challenge(connection, frame);
  if (kind == FrameKind::kProof && connection.state == State::kChallengeSent) return check_proof(connection, frame);
  if (kind == FrameKind::kWelcome && connection.state == State::kProofSent) {
    if (admit(connection)) {
      connection.done->set_value(connection.remote.node);
      connection.done.reset();
    }
    return;
  }
  if (kind == FrameKind::kReject && connection.state < State::kEstablished && connection.role == Role::kCaller) {
    connection.refusal = ErrorCode::kInvalidArgument;
    std::string text(reinterpret_cast<const char*>(frame.inline_metadata.data()), frame.inline_metadata.size());
    return break_connection(connection, "it refuses: " + one_line(text, kRejectTextBytes));
  }
  refuse(connection, "handshake frame out of turn");
}

void Switchboard::answer_hello(Connection& connection, const FrameView& frame) {
  auto wire = metadata_as<IntroductionWire>(frame);
  if (!wire) return break_connection(connection, "malformed introduction");
  auto remote = decode(*wire);
  if (!remote) return break_connection(connection, remote.error().message);
  connection.remote = *remote;
  connection.remote_number = remote->connection;
  connection.remote_pieces = remote->pieces;
  connection.caller_wire = *wire;
  if (remote->node == node_) return reject(connection, "this is the node itself");
  auto nonce = random_nonce();
  if (!nonce) return break_connection(connection, nonce.error().message);
  auto mine = encode(introduce(connection, *nonce));
  if (!mine) return break_connection(connection, mine.error().message);
  connection.listener_wire = *mine;
  ChallengeWire challenge{*mine, prove(secret_, Role::kListener, connection.caller_wire, connection.listener_wire)};
  connection.state = Connection::State::kChallengeSent;
  connection.transmit(frame_of(FrameKind::kChallenge, challenge));
}

void Switchboard::answer_challenge(Connection& connection, const FrameView& frame) {
  auto wire = metadata_as<ChallengeWire>(frame);
  if (!wire) return break_connection(connection, "malformed challenge");
  auto remote = decode(wire->introduction);
  if (!remote) return break_connection(connection, remote.error().message);
  connection.remote = *remote;
  connection.remote_number = remote->connection;
  connection.remote_pieces = remote->pieces;
  connection.listener_wire = wire->introduction;
  auto expected = prove(secret_, Role::kListener, connection.caller_wire, connection.listener_wire);
  if (!equal(expected, wire->proof)) {
    connection.refusal = ErrorCode::kInvalidArgument;
    return break_connection(connection, "it does not know this cluster's secret; give all nodes the same one");
  }
  if (remote->fingerprint != context_->types.fingerprint()) {
    connection.refusal = ErrorCode::kInvalidArgument;
    return break_connection(connection, "it speaks another schema; run the same version on all nodes");
  }
  connection.state = Connection::State::kProofSent;
  connection.transmit(
      frame_of(FrameKind::kProof, prove(secret_, Role::kCaller, connection.caller_wire, connection.listener_wire)));
}

void Switchboard::check_proof(Connection& connection, const FrameView& frame) {
  auto proof = metadata_as<Proof>(frame);
  auto expected = prove(secret_, Role::kCaller, connection.caller_wire, connection.listener_wire);
  if (!proof || !equal(expected, *proof)) return reject(connection, "wrong cluster secret");
  if (connection.remote.fingerprint != context_->types.fingerprint()) return reject(connection, "another schema");
  FrameHeader header;
  header.kind = FrameKind::kWelcome;
  if (!admit(connection)) return;
  connection.transmit(FrameBytes::of_metadata(header, {}));
}

bool Switchboard::admit(Connection& connection) {
  const auto& node = connection.remote.node;
  auto endpoint = peers_->find(node);
  if (!endpoint) {
    if (peers_->size() >= context_->limits.peers) {
      reject(connection, "limit peers");
      return false;
    }
    if (auto earlier = peers_->find_name(node.name)) lose(earlier, "it came back as another incarnation");
    endpoint = std::make_shared<Endpoint>(context_, node, connection.remote.endpoint, connection.remote.credit_bytes);
    endpoint->attach_sink(&connection);
    peers_->add(endpoint);
    heartbeat_.add(node.incarnation, Clock::now());
    spdlog::info("fabric: connected with {} at {}", to_string(node), connection.remote.endpoint);
  }
  connection.endpoint = std::move(endpoint);
  connection.state = Connection::State::kEstablished;
  return true;
}

}  // namespace troupe::fabric
