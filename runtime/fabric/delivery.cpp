#include "runtime/fabric/delivery.h"

#include <caf/actor_cast.hpp>
#include <caf/exit_reason.hpp>
#include <caf/sec.hpp>
#include <caf/system_messages.hpp>

namespace troupe::fabric {

Result<void> Delivery::deliver(Endpoint& peer, Arrival& arrival) {
  const auto& header = arrival.header;
  if (caf::message_id{header.message_id}.is_stream_message()) return corrupt_data("CAF streams do not cross nodes");
  std::span<const std::byte> metadata;
  if (arrival.buffer) metadata = {arrival.buffer.data(), header.metadata_bytes};
  switch (header.kind) {
    case FrameKind::kMessage: return message(peer, arrival);
    case FrameKind::kEmpty:
      if (auto to = address(peer, header)) {
        enqueue(to->actor, caf::make_mailbox_element(to->sender, to->id, {}, caf::message{}));
      }
      return {};
    case FrameKind::kError: {
      TROUPE_ASSIGN_OR_RETURN(auto reason, decode_error(metadata));
      if (!caf::message_id{header.message_id}.is_response()) return corrupt_data("an error that answers nothing");
      if (auto to = address(peer, header)) {
        enqueue(to->actor, caf::make_mailbox_element(to->sender, to->id, {}, std::move(reason)));
      }
      return {};
    }
    case FrameKind::kExit: {
      TROUPE_ASSIGN_OR_RETURN(auto reason, decode_error(metadata));
      exit(peer, header, std::move(reason));
      return {};
    }
    case FrameKind::kDown: {
      TROUPE_ASSIGN_OR_RETURN(auto reason, decode_error(metadata));
      peer.actor_died(header.source, std::move(reason));
      return {};
    }
    case FrameKind::kMonitor: watch(peer, header.destination); return {};
    case FrameKind::kLink: link(peer, header); return {};
    case FrameKind::kUnlink: unlink(peer, header); return {};
    case FrameKind::kChannelAbort: peer.channel_aborted(header.destination); return {};
    case FrameKind::kChannel: {
      auto size = arrival.attachment_sizes[0];
      peer.channel_frame(header.destination,
                         size > 0 ? Attachment::slice(std::move(arrival.buffer), 0, size) : Attachment{});
      return {};
    }
    default: return corrupt_data("not an ordered frame");
  }
}

std::optional<Delivery::Addressed> Delivery::address(Endpoint& peer, const FrameHeader& header) {
  caf::message_id id{header.message_id};
  auto& counters = *context_->counters;
  if (id.is_response() && !peer.settle(header.destination, id)) {
    Counters::add(counters.dropped_unknown_actor);  // answered twice, or never asked
    return std::nullopt;
  }
  auto refuse = [&](std::atomic<std::uint64_t>& counter, caf::error reason) {
    Counters::add(counter);
    if (id.is_request() && header.source != 0) {
      peer.send_error(header.source, 0, id.response_id(), std::move(reason));
    }
    return std::nullopt;
  };
  Addressed to{context_->exports->find(header.destination), nullptr, id};
  if (!to.actor) {
    return refuse(counters.dropped_unknown_actor,
                  caf::make_error(caf::sec::request_receiver_down, "no such actor on this node"));
  }
  if (header.source != 0) {
    to.sender = peer.proxy(header.source);
    if (!to.sender) {
      return refuse(counters.dropped_overload, caf::make_error(caf::sec::runtime_error, "limit proxies_per_peer"));
    }
  }
  return to;
}

Result<void> Delivery::message(Endpoint& peer, Arrival& arrival) {
  const auto& header = arrival.header;
  const auto* type = context_->types.find(header.type_id);
  if (!type) return corrupt_data("unknown message type " + std::to_string(header.type_id));
  auto words = kj::arrayPtr(reinterpret_cast<const capnp::word*>(arrival.buffer.data()),
                            header.metadata_bytes / sizeof(capnp::word));
  if (auto checked = type->validator->check(words); !checked) return std::move(checked).error().within(type->name);
  auto to = address(peer, header);
  if (!to) return {};

  std::vector<Attachment> attachments;
  attachments.reserve(arrival.attachment_sizes.size());
  auto offset = arrival.body_offset > 0 ? arrival.body_offset : header.metadata_bytes;
  for (auto size : arrival.attachment_sizes) {
    attachments.push_back(Attachment::slice(arrival.buffer, offset, size));
    offset += size;
  }
  auto data = std::make_shared<const MessageData>(std::move(arrival.buffer), words.begin(), words.size(),
                                                  std::move(attachments));
  enqueue(to->actor, type->deliverable(std::move(to->sender), to->id, std::move(data)));
  return {};
}

void Delivery::exit(Endpoint& peer, const FrameHeader& header, caf::error reason) {
  auto actor = context_->exports->find(header.destination);
  if (!actor) return Counters::add(context_->counters->dropped_unknown_actor);
  caf::strong_actor_ptr source;
  if (header.source != 0) source = peer.proxy(header.source);
  caf::exit_msg exit{caf::actor_cast<caf::actor_addr>(source), std::move(reason)};
  auto id = caf::message_id{}.with_high_priority();
  enqueue(actor, caf::make_mailbox_element(source, id, {}, std::move(exit)));
}

void Delivery::watch(Endpoint& peer, std::uint64_t number) {
  auto actor = context_->exports->find(number);
  if (!actor) {
    return peer.send_error(0, number, {}, caf::make_error(caf::exit_reason::unknown), FrameKind::kDown);
  }
  if (!peer.watch(number)) return;
  actor->get()->attach_functor([weak = peer.weak_from_this(), number](const caf::error& reason) {
    if (auto endpoint = weak.lock()) endpoint->send_error(0, number, {}, reason, FrameKind::kDown);
  });
}

void Delivery::link(Endpoint& peer, const FrameHeader& header) {
  auto actor = context_->exports->find(header.destination);
  auto proxy = peer.proxy(header.source);
  if (actor && proxy) {
    peer.pin(proxy);  // the link must fire when the peer is lost, whoever still knows the proxy
    return proxy->get()->add_link(actor->get());
  }
  peer.send_error(header.source, header.destination, caf::message_id{}.with_high_priority(),
                  caf::make_error(caf::exit_reason::unknown), FrameKind::kExit);
}

void Delivery::unlink(Endpoint& peer, const FrameHeader& header) {
  auto actor = context_->exports->find(header.destination);
  auto proxy = peer.proxy(header.source);
  if (actor && proxy) proxy->get()->remove_link(actor->get());
}

void Delivery::enqueue(const caf::strong_actor_ptr& actor, caf::mailbox_element_ptr element) {
  Counters::add(context_->counters->messages_received);
  // Without a unit CAF's pool runs the actor.
  actor->get()->enqueue(std::move(element), unit_->contains(actor.get()) ? unit_.get() : nullptr);
}

}  // namespace troupe::fabric
