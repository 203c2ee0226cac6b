#include "runtime/fabric/endpoint.h"

#include <caf/actor_cast.hpp>
#include <caf/actor_config.hpp>
#include <caf/exit_reason.hpp>
#include <caf/make_actor.hpp>
#include <caf/sec.hpp>
#include <caf/system_messages.hpp>

#include "runtime/base/log.h"
#include "runtime/fabric/remote_actor.h"

namespace troupe::fabric {
namespace {

// Frames handed to UCX and not yet gone. UCX works off its own queue one frame per progress call, so most wait here.
constexpr std::size_t kSendsInFlight = 16;
constexpr std::size_t kRememberedClosedChannels = 4096;

caf::error unreachable(const NodeId& node) {
  return caf::make_error(caf::sec::request_receiver_down, "node " + node.name + " is gone");
}

// The type of a Message<T> that may be sent; CAF gives no type_info for its built-in types.
const MessageTypes::Type* registered(const MessageTypes& types, const caf::type_erased_tuple& content) {
  const auto* type = content.type(0).second;
  return type ? types.find(*type) : nullptr;
}

}  // namespace

// A frame on its way from any thread to the lane it is sent in.
class Endpoint::SendTask final : public Task {
 public:
  SendTask(std::shared_ptr<Endpoint> endpoint, FrameBytes frame)
      : endpoint(std::move(endpoint)), frame(std::move(frame)), cost(frame_cost(this->frame.header())) {}

  void run(std::unique_ptr<Task> self) override {
    auto target = endpoint;
    target->admit(std::unique_ptr<SendTask>(static_cast<SendTask*>(self.release())));
  }
  void refuse(const caf::error& reason) const {
    if (frame.header().kind == FrameKind::kMessage || frame.header().kind == FrameKind::kEmpty) {
      fail_request(source, caf::message_id{frame.header().message_id}, reason);
    }
  }

  std::shared_ptr<Endpoint> endpoint;
  FrameBytes frame;
  std::uint64_t cost;
  caf::strong_actor_ptr source;  // the local actor (or third node's proxy) that the frame comes from
  caf::strong_actor_ptr proxy;   // of kMonitor and kLink: to be pinned
};

Endpoint::Endpoint(std::shared_ptr<FabricContext> context, NodeId node, std::string address,
                   std::uint64_t remote_credit)
    : context_(std::move(context)),
      node_(std::move(node)),
      caf_node_(caf_node_id(node_)),
      address_(std::move(address)),
      remote_credit_(remote_credit) {}

Endpoint::~Endpoint() = default;

caf::strong_actor_ptr Endpoint::proxy(std::uint64_t number) {
  std::lock_guard lock(mutex_);
  if (!alive()) return nullptr;
  if (auto known = proxies_.find(number); known != proxies_.end()) {
    auto actor = known->second.lock();
    // A proxy that was told of its actor's death stays dead; its number may belong to a successor by now.
    if (actor && !actor->get()->getf(caf::abstract_actor::is_terminated_flag)) return actor;
    proxies_.erase(known);
  }
  if (proxies_.size() >= context_->limits.proxies_per_peer) {
    std::erase_if(proxies_, [](const auto& entry) { return !entry.second.lock(); });
    if (proxies_.size() >= context_->limits.proxies_per_peer) return nullptr;
  }
  caf::actor_config config;
  auto actor = caf::make_actor<RemoteActor, caf::strong_actor_ptr>(number, caf_node_, &context_->system, config,
                                                                   shared_from_this());
  proxies_.emplace(number, caf::weak_actor_ptr(actor.get()));
  return actor;
}

void Endpoint::send(std::uint64_t destination, caf::mailbox_element_ptr element) {
  auto& counters = *context_->counters;
  auto id = element->mid;
  if (!alive()) {
    Counters::add(counters.dropped_stale);
    return fail_request(element->sender, id, unreachable(node_));
  }
  FrameHeader header;
  header.destination = destination;
  header.message_id = id.integer_value();
  const auto& content = element->content();
  auto refuse = [&](const std::string& why) {
    Counters::add(counters.dropped_unencodable);
    auto reason = caf::make_error(caf::sec::unknown_type, why);
    // Whoever waits for this answer must not wait for ever.
    if (id.is_response()) return send_error(destination, 0, id, reason);
    fail_request(element->sender, id, std::move(reason));
  };
  if (!element->stages.empty()) return refuse("response promises with stages do not cross nodes");
  if (content.size() > 1) return refuse("only one Message<T> crosses nodes, not " + content.stringify());

  std::optional<FrameBytes> frame;
  if (content.size() == 0) {
    header.kind = FrameKind::kEmpty;
    frame = FrameBytes::of_metadata(header, {});
  } else if (const auto* type = registered(context_->types, content)) {
    const auto& data = type->data_of(content.get(0));
    if (!data) return refuse("an empty Message cannot be sent");
    header.type_id = type->id;
    auto encoded = FrameBytes::of_message(header, data, context_->limits);
    if (!encoded) return refuse(encoded.error().message);
    frame = std::move(encoded).value();
  } else if (content.match_elements<caf::error>()) {
    header.kind = FrameKind::kError;
    frame = FrameBytes::of_metadata(header, encode_error(content.get_as<caf::error>(0)));
  } else if (content.match_elements<caf::exit_msg>()) {
    header.kind = FrameKind::kExit;
    const auto& exit = content.get_as<caf::exit_msg>(0);
    frame = FrameBytes::of_metadata(header, encode_error(exit.reason));
    element->sender = caf::actor_cast<caf::strong_actor_ptr>(exit.source);
  } else {
    return refuse("not a registered message type: " + content.stringify());
  }
  auto task = std::make_unique<SendTask>(shared_from_this(), *std::move(frame));
  task->source = std::move(element->sender);
  // Here and not on the fabric's thread: an actor that is dying is still known under its published number.
  if (task->source) task->frame.header().source = context_->exports->number_of(task->source);
  if (!reserve(Lane::kActors, task->cost)) {
    Counters::add(counters.dropped_overload);
    auto reason =
        caf::make_error(caf::sec::runtime_error, "limit send_queue_bytes: " + node_.name + " reads too slowly");
    if (!id.is_response()) return task->refuse(reason);
    // A dropped answer becomes a short error, which is allowed through: the requester must hear something.
    return send_error(destination, 0, id, reason);
  }
  post(std::move(task));
}

void Endpoint::send_error(std::uint64_t destination, std::uint64_t source, caf::message_id id, const caf::error& reason,
                          FrameKind kind) {
  FrameHeader header;
  header.kind = kind;
  header.destination = destination;
  header.source = source;
  header.message_id = id.integer_value();
  auto task = std::make_unique<SendTask>(shared_from_this(), FrameBytes::of_metadata(header, encode_error(reason)));
  post_always(Lane::kActors, std::move(task));
}

void Endpoint::send_control(FrameKind kind, caf::strong_actor_ptr proxy, caf::strong_actor_ptr local) {
  FrameHeader header;
  header.kind = kind;
  header.destination = proxy->id();
  auto task = std::make_unique<SendTask>(shared_from_this(), FrameBytes::of_metadata(header, {}));
  task->source = std::move(local);
  task->proxy = std::move(proxy);
  post_always(Lane::kActors, std::move(task));
}

Result<void> Endpoint::send_channel(std::uint64_t channel, std::span<const std::byte> bytes) {
  if (!alive()) return unavailable("node " + to_string(node_) + " is gone");
  if (bytes.size() > context_->limits.frame_bytes) {
    return resource_exhausted("channel frame of " + std::to_string(bytes.size()) + " bytes exceeds limit frame_bytes",
                              "frame_bytes");
  }
  FrameHeader header;
  header.kind = FrameKind::kChannel;
  header.lane = Lane::kChannels;
  header.destination = channel;
  auto task =
      std::make_unique<SendTask>(shared_from_this(), FrameBytes::of_attachment(header, Attachment::copy_of(bytes)));
  if (!reserve(Lane::kChannels, task->cost)) {
    Counters::add(context_->counters->dropped_overload);
    return resource_exhausted("limit send_queue_bytes: " + node_.name + " reads too slowly", "send_queue_bytes");
  }
  post(std::move(task));
  return {};
}

void Endpoint::send_channel_abort(std::uint64_t channel) {
  if (!alive()) return;
  FrameHeader header;
  header.kind = FrameKind::kChannelAbort;
  header.lane = Lane::kChannels;
  header.destination = channel;
  auto task = std::make_unique<SendTask>(shared_from_this(), FrameBytes::of_metadata(header, {}));
  post_always(Lane::kChannels, std::move(task));
}

bool Endpoint::reserve(Lane which, std::uint64_t cost) {
  auto& queued = lane(which).queued_bytes;
  auto before = queued.fetch_add(cost, std::memory_order_relaxed);
  // One frame is always taken, however large: frame_bytes bounds it.
  if (before > 0 && before + cost > context_->limits.send_queue_bytes) {
    queued.fetch_sub(cost, std::memory_order_relaxed);
    return false;
  }
  Counters::add(context_->counters->queue_bytes, cost);
  return true;
}

void Endpoint::post_always(Lane which, std::unique_ptr<SendTask> task) {
  lane(which).queued_bytes.fetch_add(task->cost, std::memory_order_relaxed);
  Counters::add(context_->counters->queue_bytes, task->cost);
  post(std::move(task));
}

void Endpoint::post(std::unique_ptr<SendTask> task) {
  auto returned = context_->tasks->push(std::move(task));
  if (returned) static_cast<SendTask&>(*returned).refuse(unreachable(node_));  // the fabric has stopped
}

std::shared_ptr<ChannelState> Endpoint::open_channel(std::uint64_t channel) {
  std::lock_guard lock(mutex_);
  auto& state = channels_[channel];
  if (!state) state = std::make_shared<ChannelState>(shared_from_this(), channel, context_->limits.spin_us);
  auto opened = state;
  if (!alive()) {
    channels_.erase(channel);
    opened->fail(unavailable("node " + to_string(node_) + " is gone"));
  }
  return opened;
}

void Endpoint::close_channel(std::uint64_t channel) {
  std::lock_guard lock(mutex_);
  channels_.erase(channel);
  if (!closed_channels_.insert(channel).second) return;
  closed_channel_order_.push_back(channel);
  if (closed_channel_order_.size() > kRememberedClosedChannels) {
    closed_channels_.erase(closed_channel_order_.front());
    closed_channel_order_.pop_front();
  }
}

void Endpoint::attach_sink(FrameSink* sink) {
  if (sink_) return;
  sink_ = sink;
  for (std::size_t i = 0; i < kLanes; ++i) {
    credits_[i] = std::make_shared<CreditReturn>(weak_from_this(), static_cast<Lane>(i), *context_);
  }
}

void Endpoint::admit(std::unique_ptr<SendTask> task) {
  auto& header = task->frame.header();
  auto& queue = lane(header.lane);
  auto drop = [&](std::atomic<std::uint64_t>& counter, const caf::error& reason) {
    queue.queued_bytes.fetch_sub(task->cost, std::memory_order_relaxed);
    Counters::subtract(context_->counters->queue_bytes, task->cost);
    Counters::add(counter);
    task->refuse(reason);
  };
  if (!alive()) return drop(context_->counters->dropped_stale, unreachable(node_));
  if (header.kind == FrameKind::kDown) watched_.erase(header.source);
  if (task->source && header.source == 0) header.source = context_->exports->number_of(task->source);
  if (task->proxy && header.kind != FrameKind::kUnlink) pin(task->proxy);
  caf::message_id id{header.message_id};
  bool is_request = (header.kind == FrameKind::kMessage || header.kind == FrameKind::kEmpty) && id.is_request();
  if (is_request && task->source) {
    if (pending_.size() >= std::min<std::size_t>(next_sweep_, context_->limits.pending_requests)) {
      forget_dead_requesters();
    }
    if (pending_.size() >= context_->limits.pending_requests) {
      return drop(context_->counters->dropped_overload,
                  caf::make_error(caf::sec::runtime_error, "limit pending_requests"));
    }
    pending_.insert_or_assign(PendingKey{header.source, id.request_id().integer_value()}, Pending{task->source, id});
  }
  queue.queue.push_back(std::move(task));
}

bool Endpoint::pump() {
  if (!alive()) return false;
  bool sent = sink_->advance();
  auto flush = [&] {
    if (joiner_.empty()) return true;
    sent = true;
    return sink_->transmit(joiner_.take());
  };
  for (std::size_t i = 0; i < kLanes; ++i) {
    auto& queue = lanes_[i];
    while (!queue.queue.empty()) {
      auto& next = *queue.queue.front();
      if (!joiner_.fits(next.frame) && !flush()) return false;
      if (sink_->is_occupied(static_cast<Lane>(i))) break;
      if (queue.unreturned > 0 && queue.unreturned + next.cost > remote_credit_) {
        if (!queue.asked) control(FrameKind::kCreditWanted, next.frame.header().lane, 0);
        queue.asked = true;
        break;
      }
      if (sink_->in_flight() >= kSendsInFlight) break;
      next.frame.header().sequence = queue.next_sequence++;
      queue.unreturned += next.cost;
      queue.queued_bytes.fetch_sub(next.cost, std::memory_order_relaxed);
      Counters::subtract(context_->counters->queue_bytes, next.cost);
      Counters::add(context_->counters->messages_sent);
      Counters::add(context_->counters->bytes_sent, next.frame.head().size() + next.frame.header().body_bytes);
      joiner_.add(std::move(next.frame));
      queue.queue.pop_front();
    }
    if (!flush()) return false;
  }
  return sent;
}

bool Endpoint::accepts(const FrameHeader& header) {
  auto& expected = lane(header.lane).expected_sequence;
  auto outstanding = credit(header.lane).outstanding();
  auto cost = frame_cost(header);
  if (header.sequence != expected) return false;
  if (outstanding > 0 && outstanding + cost > context_->limits.credit_bytes) return false;
  ++expected;
  credit(header.lane).hold(cost);
  return true;
}

void Endpoint::credit_arrived(Lane which, std::uint64_t bytes) {
  auto& queue = lane(which);
  queue.unreturned -= std::min(bytes, queue.unreturned);
  queue.asked = false;
}

void Endpoint::return_credit(Lane which) {
  if (!alive()) return;
  if (auto bytes = credit(which).take(); bytes > 0) control(FrameKind::kCredit, which, bytes);
}

void Endpoint::heartbeat() { control(FrameKind::kHeartbeat, Lane::kActors, 0); }

bool Endpoint::idle() const {
  return lanes_[0].queue.empty() && lanes_[1].queue.empty() && sink_->in_flight() == 0 &&
         !sink_->is_occupied(Lane::kActors) && !sink_->is_occupied(Lane::kChannels);
}

void Endpoint::control(FrameKind kind, Lane which, std::uint64_t value) {
  FrameHeader header;
  header.kind = kind;
  header.lane = which;
  header.message_id = value;
  sink_->transmit(FrameBytes::of_metadata(header, {}));
}

bool Endpoint::settle(std::uint64_t source, caf::message_id response) {
  return pending_.erase(PendingKey{source, response.request_id().integer_value()}) > 0;
}

void Endpoint::forget_dead_requesters() {
  std::erase_if(pending_, [](const auto& entry) {
    return entry.second.sender->get()->getf(caf::abstract_actor::is_terminated_flag);
  });
  next_sweep_ = std::max(kFirstSweep, 2 * pending_.size());
}

void Endpoint::pin(const caf::strong_actor_ptr& proxy) { pinned_.emplace(proxy->id(), proxy); }

void Endpoint::actor_died(std::uint64_t number, caf::error reason) {
  caf::strong_actor_ptr actor;
  {
    std::lock_guard lock(mutex_);
    if (auto known = proxies_.find(number); known != proxies_.end()) {
      actor = known->second.lock();
      proxies_.erase(known);
    }
  }
  auto pinned = pinned_.extract(number);
  if (actor) static_cast<RemoteActor*>(actor->get())->kill_proxy(nullptr, reason);
  if (pinned && pinned.mapped() != actor) {
    static_cast<RemoteActor*>(pinned.mapped()->get())->kill_proxy(nullptr, std::move(reason));
  }
}

bool Endpoint::watch(std::uint64_t number) {
  return watched_.size() < context_->limits.proxies_per_peer && watched_.insert(number).second;
}

void Endpoint::channel_frame(std::uint64_t channel, Attachment bytes) {
  std::shared_ptr<ChannelState> state;
  {
    std::lock_guard lock(mutex_);
    if (closed_channels_.contains(channel)) return;
    auto& slot = channels_[channel];  // frames may be faster than the one who opens; credit bounds them
    if (!slot) slot = std::make_shared<ChannelState>(shared_from_this(), channel, context_->limits.spin_us);
    state = slot;
  }
  state->deliver(std::move(bytes));
}

void Endpoint::channel_aborted(std::uint64_t channel) {
  std::shared_ptr<ChannelState> state;
  {
    std::lock_guard lock(mutex_);
    const auto found = channels_.find(channel);
    if (found != channels_.end()) state = found->second;
  }
  if (state) state->fail(cancelled("the other end aborted the channel"));
}

void Endpoint::die(const std::string& reason) {
  std::vector<caf::strong_actor_ptr> proxies;
  decltype(channels_) channels;
  {
    std::lock_guard lock(mutex_);
    if (!alive_.exchange(false)) return;
    for (auto& [number, weak] : proxies_) {
      if (auto actor = weak.lock()) proxies.push_back(std::move(actor));
    }
    proxies_.clear();
    channels.swap(channels_);
  }
  for (auto& [id, channel] : channels) channel->fail(unavailable("node " + to_string(node_) + " is gone: " + reason));
  auto error = unreachable(node_);
  for (auto& [key, request] : std::exchange(pending_, {})) fail_request(request.sender, request.id, error);
  for (auto& queue : lanes_) {
    for (auto& task : queue.queue) {
      queue.queued_bytes.fetch_sub(task->cost, std::memory_order_relaxed);
      Counters::subtract(context_->counters->queue_bytes, task->cost);
      Counters::add(context_->counters->dropped_stale);  // its request was pending, and has failed above
    }
    queue.queue.clear();
  }
  for (auto& [number, pinned] : std::exchange(pinned_, {})) proxies.push_back(std::move(pinned));
  for (auto& actor : proxies) {
    static_cast<RemoteActor*>(actor->get())->kill_proxy(nullptr, caf::exit_reason::remote_link_unreachable);
  }
}

}  // namespace troupe::fabric
