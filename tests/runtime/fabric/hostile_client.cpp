#include "tests/runtime/fabric/hostile_client.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "runtime/fabric/joined_frame.h"
#include "runtime/fabric/ucx.h"
#include "schema/generate.capnp.h"
#include "tests/runtime/fabric/support.h"

namespace troupe::fabric::test {
namespace {

std::vector<std::byte> bytes_of(const FrameBytes& frame) { return {frame.head().begin(), frame.head().end()}; }

FrameBytes message_frame(HostileClient& client, std::span<const std::uint64_t> words) {
  auto header = client.next(FrameKind::kMessage);
  header.type_id = capnp::typeId<schema::Generate>();
  return FrameBytes::of_metadata(header, std::as_bytes(words));
}

// The head of a frame whose body of `bytes` bytes is to come in pieces.
void send_head(HostileClient& client, std::size_t bytes) {
  auto header = client.next(FrameKind::kMessage);
  header.type_id = capnp::typeId<schema::Generate>();
  auto frame = FrameBytes::of_message(header, ping(1, bytes).data(), Limits{}).value();
  frame.header().flags = kInPieces;
  client.send(frame);
}

void send_seal(HostileClient& client) { client.send(FrameBytes::of_metadata(client.next(FrameKind::kSealed), {})); }

// A kJoined frame whose body is what `change` makes of two good records.
void send_joined(HostileClient& client, void (*change)(std::vector<std::byte>& records)) {
  FrameJoiner joiner;
  for (int i = 0; i < 2; ++i) joiner.add(FrameBytes::of_metadata(client.next(FrameKind::kMonitor), {}));
  auto joined = joiner.take();
  std::vector<std::byte> records(joined.body()[0].begin(), joined.body()[0].end());
  change(records);
  auto header = client.next(FrameKind::kJoined);
  header.body_bytes = records.size();
  client.send(std::as_bytes(std::span(&header, 1)), records);
}

FrameHeader& first_head(std::vector<std::byte>& records) {
  return *reinterpret_cast<FrameHeader*>(records.data() + 8);  // behind its lengths
}

}  // namespace

HostileClient::HostileClient(const std::string& endpoint) {
  ucp_config_t* config = nullptr;
  ucp_config_read(nullptr, nullptr, &config);
  ucp_config_modify(config, "TLS", "tcp");
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM;
  auto status = ucp_init(&params, config, &context_);
  ucp_config_release(config);
  if (status != UCS_OK) throw std::runtime_error("ucp_init");
  ucp_worker_params_t worker{};
  if (ucp_worker_create(context_, &worker, &worker_) != UCS_OK) throw std::runtime_error("ucp_worker_create");
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.cb = &HostileClient::on_frame;
  handler.arg = this;
  ucp_worker_set_am_recv_handler(worker_, &handler);
  auto address = SocketAddress::parse(endpoint, false).value();
  ucp_ep_params_t ep{};
  ep.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                  UCP_EP_PARAM_FIELD_ERR_HANDLER;
  ep.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  ep.sockaddr = {reinterpret_cast<const sockaddr*>(&address.storage), address.length};
  ep.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  ep.err_handler = {&HostileClient::on_error, this};
  if (ucp_ep_create(worker_, &ep, &ep_) != UCS_OK) throw std::runtime_error("ucp_ep_create");
}

HostileClient::~HostileClient() {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  auto request = ucp_ep_close_nbx(ep_, &param);
  if (UCS_PTR_IS_PTR(request)) {
    while (ucp_request_check_status(request) == UCS_INPROGRESS) ucp_worker_progress(worker_);
    ucp_request_free(request);
  }
  ucp_worker_destroy(worker_);
  ucp_cleanup(context_);
}

void HostileClient::send(std::span<const std::byte> header, std::span<const std::byte> body, std::uint64_t number,
                         unsigned flags) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = flags | (header.empty() ? 0U : unsigned{UCP_AM_SEND_FLAG_REPLY});
  auto request = ucp_am_send_nbx(ep_, static_cast<unsigned>(number), header.data(), header.size(), body.data(),
                                 body.size(), &param);
  if (!UCS_PTR_IS_PTR(request)) return;
  while (!is_closed_ && ucp_request_check_status(request) == UCS_INPROGRESS) ucp_worker_progress(worker_);
  ucp_request_free(request);
}

void HostileClient::join(const std::string& secret, std::uint64_t fingerprint) {
  static std::uint64_t incarnation = 1000;
  auto mine =
      *encode({{"hostile", ++incarnation}, "127.0.0.1:1", fingerprint, 77, 1 << 20, kFirstPieces, *random_nonce()});
  FrameHeader hello;
  hello.kind = FrameKind::kHello;
  send(FrameBytes::of_metadata(hello, std::as_bytes(std::span(&mine, 1))));
  auto metadata = receive(FrameKind::kChallenge);
  ChallengeWire challenge;
  if (metadata.size() != sizeof(challenge)) throw std::runtime_error("no challenge");
  std::memcpy(&challenge, metadata.data(), sizeof(challenge));
  remote_number_ = challenge.introduction.connection;
  remote_pieces_ = challenge.introduction.pieces;
  auto proof = prove(secret, Role::kCaller, mine, challenge.introduction);
  hello.kind = FrameKind::kProof;
  hello.connection = remote_number_;
  send(FrameBytes::of_metadata(hello, std::as_bytes(std::span(proof))));
  receive(FrameKind::kWelcome);
}

void HostileClient::send_piece(std::size_t bytes, unsigned flags) {
  send({}, std::vector<std::byte>(bytes), remote_pieces_, flags);
}

FrameHeader HostileClient::next(FrameKind kind) {
  FrameHeader header;
  header.kind = kind;
  header.connection = remote_number_;
  header.sequence = sequence_++;
  header.destination = 1;
  return header;
}

bool HostileClient::is_closed_by_peer() {
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!is_closed_ && std::chrono::steady_clock::now() < deadline) ucp_worker_progress(worker_);
  return is_closed_;
}

std::vector<std::byte> HostileClient::receive(FrameKind kind) {
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    for (const auto& frame : frames_) {
      auto header = reinterpret_cast<const FrameHeader*>(frame.data());
      if (header->kind == kind) return {frame.begin() + sizeof(FrameHeader), frame.end()};
    }
    ucp_worker_progress(worker_);
  }
  throw std::runtime_error("the fabric did not answer");
}

ucs_status_t HostileClient::on_frame(void* self, const void* header, std::size_t header_bytes, void*, std::size_t,
                                     const ucp_am_recv_param_t*) {
  auto* bytes = static_cast<const std::byte*>(header);
  static_cast<HostileClient*>(self)->frames_.emplace_back(bytes, bytes + header_bytes);
  return UCS_OK;
}

void HostileClient::on_error(void* self, ucp_ep_h, ucs_status_t) {
  static_cast<HostileClient*>(self)->is_closed_ = true;
}

const std::vector<Attack> kStrangerAttacks = {
    {"nothing at all", [](HostileClient&) {}},
    {"garbage", [](HostileClient& client) { client.send(std::vector<std::byte>(200, std::byte{0xa5})); }},
    {"a short header", [](HostileClient& client) { client.send(std::vector<std::byte>(3)); }},
    {"another version",
     [](HostileClient& client) {
       FrameHeader header;
       header.kind = FrameKind::kHello;
       header.version = 99;
       client.send(FrameBytes::of_metadata(header, {}));
     }},
    {"a message without a handshake",
     [](HostileClient& client) {
       client.send(*FrameBytes::of_message(client.next(FrameKind::kMessage), ping(1).data(), Limits{}));
     }},
    {"a huge rendezvous without a handshake",
     [](HostileClient& client) {
       auto header = bytes_of(FrameBytes::of_metadata(client.next(FrameKind::kHeartbeat), {}));
       client.send(header, std::vector<std::byte>(8 << 20), kFrames, UCP_AM_SEND_FLAG_RNDV);
     }},
    {"a malformed introduction",
     [](HostileClient& client) {
       FrameHeader header;
       header.kind = FrameKind::kHello;
       client.send(FrameBytes::of_metadata(header, std::vector<std::byte>(sizeof(IntroductionWire))));
     }},
};

const std::vector<Attack> kMemberAttacks = {
    {"an unknown message type",
     [](HostileClient& client) {
       auto header = client.next(FrameKind::kMessage);
       header.type_id = 1;
       std::uint64_t root = 0;
       client.send(FrameBytes::of_metadata(header, std::as_bytes(std::span(&root, 1))));
     }},
    {"a truncated Cap'n Proto message",
     [](HostileClient& client) {
       std::uint64_t words[] = {std::uint64_t{100} << 32};  // a root of 100 words that are not there
       client.send(message_frame(client, words));
     }},
    {"a cyclic Cap'n Proto message",
     [](HostileClient& client) {
       // The root holds only pointers, and each leads back to the root.
       std::uint64_t words[17] = {std::uint64_t{16} << 48};
       for (std::uint64_t i = 1; i < 17; ++i) {
         words[i] = (static_cast<std::uint32_t>(-static_cast<std::int32_t>(i)) << 2) | std::uint64_t{16} << 48;
       }
       client.send(message_frame(client, words));
     }},
    {"a frame out of order",
     [](HostileClient& client) {
       client.next(FrameKind::kMonitor);
       client.send(FrameBytes::of_metadata(client.next(FrameKind::kMonitor), {}));
     }},
    {"an empty joined frame",
     [](HostileClient& client) { send_joined(client, [](std::vector<std::byte>& records) { records.clear(); }); }},
    {"a joined frame cut within its last record",
     [](HostileClient& client) {
       send_joined(client, [](std::vector<std::byte>& records) { records.resize(records.size() - 8); });
     }},
    {"a joined frame with a record longer than itself",
     [](HostileClient& client) {
       send_joined(client, [](std::vector<std::byte>& records) { std::fill_n(records.begin(), 8, std::byte{0xff}); });
     }},
    {"a joined frame of control frames",
     [](HostileClient& client) {
       send_joined(client, [](std::vector<std::byte>& records) { first_head(records).kind = FrameKind::kHeartbeat; });
     }},
    {"a joined frame in a joined frame",
     [](HostileClient& client) {
       send_joined(client, [](std::vector<std::byte>& records) { first_head(records).kind = FrameKind::kJoined; });
     }},
    {"a joined frame out of order",
     [](HostileClient& client) {
       send_joined(client, [](std::vector<std::byte>& records) { first_head(records).sequence = 7; });
     }},
    {"a joined frame larger than any",
     [](HostileClient& client) {
       send_joined(client, [](std::vector<std::byte>& records) { records.resize(kJoinedFrameBytes + 8); });
     }},
    {"a joined frame with a record in pieces",
     [](HostileClient& client) {
       send_joined(client, [](std::vector<std::byte>& records) { first_head(records).flags = kInPieces; });
     }},
    {"a body longer than its frame announced",
     [](HostileClient& client) {
       send_head(client, 200'000);
       client.send_piece(200'001);
     }},
    {"a body that another piece got into",
     [](HostileClient& client) {
       send_head(client, 3'000);
       client.send_piece(1'000);
       client.send_piece(1);
       client.send_piece(2'000);
     }},
    {"a body shorter than its frame announced",
     [](HostileClient& client) {
       send_head(client, 3'000);
       client.send_piece(2'999);
       send_seal(client);
     }},
    {"a body by rendezvous",
     [](HostileClient& client) {
       auto header = client.next(FrameKind::kChannel);
       header.lane = Lane::kChannels;
       auto frame = FrameBytes::of_attachment(header, Attachment::allocate(1 << 20));
       client.send(frame.head(), frame.body()[0], kFrames, UCP_AM_SEND_FLAG_RNDV);
     }},
    {"the end of no body", [](HostileClient& client) { send_seal(client); }},
    {"a frame before the body of the last is complete",
     [](HostileClient& client) {
       send_head(client, 3'000);
       client.send_piece(3'000);
       client.send(FrameBytes::of_metadata(client.next(FrameKind::kMonitor), {}));
     }},
    {"a piece by rendezvous, and the end of its body",
     [](HostileClient& client) {
       send_head(client, 8 << 20);
       client.send_piece(8 << 20, UCP_AM_SEND_FLAG_RNDV);
       send_seal(client);
     }},
    {"a stream message id",
     [](HostileClient& client) {
       auto header = client.next(FrameKind::kEmpty);
       header.message_id = caf::message_id::upstream_message_category << caf::message_id::category_offset;
       client.send(FrameBytes::of_metadata(header, {}));
     }},
    {"a malformed error",
     [](HostileClient& client) { client.send(FrameBytes::of_metadata(client.next(FrameKind::kExit), {})); }},
    {"a second hello",
     [](HostileClient& client) {
       auto header = client.next(FrameKind::kHello);
       client.send(FrameBytes::of_metadata(header, std::vector<std::byte>(sizeof(IntroductionWire))));
     }},
    {"more than its credit",
     [](HostileClient& client) {
       // Frames for a channel that nobody opens are kept, as far as the credit goes.
       for (int i = 0; i < 66; ++i) {
         auto header = client.next(FrameKind::kChannel);
         header.lane = Lane::kChannels;
         auto frame = FrameBytes::of_attachment(header, Attachment::allocate(1 << 20));
         client.send(frame.head(), frame.body()[0]);
       }
     }},
};

}  // namespace troupe::fabric::test
