#include "actors/gateway/gateway.h"

#include <atomic>
#include <caf/event_based_actor.hpp>
#include <caf/send.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_response_promise.hpp>
#include <charconv>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "actors/gateway/cluster_metrics.h"
#include "actors/gateway/live_requests.h"
#include "actors/gateway/openai_api.h"
#include "actors/names.h"
#include "actors/outcome.h"
#include "actors/stats.h"
#include "runtime/base/log.h"
#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"

namespace troupe {
namespace {

// What the HTTP half tells the actor; never leaves the process.
struct Submitted {
  std::shared_ptr<Submission> submission;
};
struct ClientGone {
  std::uint64_t first_request;
  std::size_t choices;
};
struct Scrape {
  std::shared_ptr<HttpResponder> responder;
};
struct DrainDeadline {};

}  // namespace
}  // namespace troupe

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::Submitted)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::ClientGone)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::Scrape)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::DrainDeadline)

namespace troupe {
namespace {

using OutcomeMessage = fabric::Message<schema::Outcome>;
using StatsMessage = fabric::Message<schema::Stats>;

constexpr std::uintmax_t kKeyFileBytes = 1 << 20;
constexpr std::uint32_t kRoomNotTold = std::numeric_limits<std::uint32_t>::max();

class ActorBackend final : public GatewayBackend {
 public:
  void submit(std::shared_ptr<Submission> submission) override {
    caf::anon_send(actor, Submitted{std::move(submission)});
  }
  void gone(std::uint64_t first_request, std::size_t choices) override {
    caf::anon_send(actor, ClientGone{first_request, choices});
  }
  void scrape(std::shared_ptr<HttpResponder> responder) override {
    caf::anon_send(actor, Scrape{std::move(responder)});
  }
  bool ready() const override { return is_ready; }

  caf::actor actor;  // set before the server starts
  std::atomic<bool> is_ready = false;
};

// Everything that threads of the gateway share. Made before the actor, ended by it.
struct Parts {
  GatewayOptions options;
  std::shared_ptr<Metrics> metrics;
  std::shared_ptr<GatewayMetrics> counters;
  std::shared_ptr<ActorBackend> backend;
  std::shared_ptr<SchedulerRoom> room;
  std::unique_ptr<OpenAiApi> api;
  std::unique_ptr<HttpServer> server;
};

// A replica of the model, as the gateway sees it.
struct ReplicaLink {
  caf::actor scheduler;  // null while it is away
  std::uint64_t epoch = 0;
  std::vector<caf::actor> members;  // its actors and their nodes' supervisors
};

struct GatewayState {
  using Self = caf::stateful_actor<GatewayState>;
  static constexpr const char* name = "gateway";

  explicit GatewayState() = default;
  GatewayState(const GatewayState&) = delete;

  ~GatewayState() {
    if (!parts) return;
    parts->backend->is_ready = false;
    live->fail_all(http_error(503, "the gateway is ending"));
    // No handler of the server runs after this; then nothing refers to the API, nor the backend to the actor.
    parts->server->stop();
    parts->api.reset();
    parts->backend->actor = nullptr;
  }

  void cancel(const std::vector<Unwanted>& unwanted) {
    for (const auto& [replica, request] : unwanted) {
      const auto& scheduler = replicas[replica].scheduler;
      if (!scheduler) continue;
      self->send(scheduler, fabric::make_message<schema::Cancel>(
                                [id = request](schema::Cancel::Builder cancel) { cancel.setRequest(id); }));
    }
  }

  void submit(const std::shared_ptr<Submission>& submission) {
    if (draining) return submission->writer->fail(http_error(503, "the gateway is ending"));
    const RequestPlan& plan = submission->writer->plan();
    const auto blueprint = plan.options.blueprint.read();
    const auto salt = blueprint->getCacheSalt();
    std::vector<engine::ReplicaRouter::Tokens> prompts;
    for (const Prompt& prompt : plan.prompts) prompts.emplace_back(prompt.tokens);
    const auto route = router->choose(prompts, {salt.begin(), salt.size()}, plan.choices());
    if (!route) return submission->writer->fail(http_error(503, "the scheduler is away; try again later"));
    submission->route = *route;
    parts->room->sent(route->replica, plan.choices());
    submission->place.reset();
    live->add(submission);
    const caf::actor& scheduler = replicas[route->replica].scheduler;
    for (const auto& generate : submission->generates) self->send(scheduler, generate);
    submission->generates.clear();
  }

  OutcomeMessage assemble(schema::Assemble::Reader assemble) {
    ReplicaLink& replica = replicas[assemble.getReplica()];
    if (assemble.getEpoch() < replica.epoch) {
      return outcome_of(invalid_argument("the epoch " + std::to_string(assemble.getEpoch()) +
                                         " is over; this gateway is in " + std::to_string(replica.epoch)));
    }
    const std::string wanted = scheduler_name(assemble.getReplica());
    for (const auto address : assemble.getActors()) {
      if (wanted != address.getActor().cStr()) continue;
      const caf::actor found = parts->options.resolver(address);
      if (!found) {
        return outcome_of(unavailable("cannot reach the actor " + wanted + " at " + address.getEndpoint().cStr()));
      }
      work_with(assemble.getReplica(), found, assemble.getEpoch());
      replica.members = members_of(assemble);
      ask_members_for_metrics();
      return outcome_of({});
    }
    return outcome_of(invalid_argument("there is no " + wanted + " among the actors to work with", "actors"));
  }

  void work_with(std::uint32_t number, const caf::actor& found, std::uint64_t epoch) {
    ReplicaLink& replica = replicas[number];
    if (found != replica.scheduler) {
      lose_scheduler(number, "the scheduler was replaced");
      replica.scheduler = found;
      self->monitor(found);
    }
    replica.epoch = epoch;
    router->add(number);
    parts->room->add(number);
    update_readiness();
    spdlog::info("ready at http://{} with replica {} in epoch {}", parts->server->address(), number, epoch);
  }

  void update_readiness() { parts->backend->is_ready = !draining && !router->empty(); }

  // Who has something to tell for /metrics: every actor but this one, and each node's supervisor.
  std::vector<caf::actor> members_of(schema::Assemble::Reader assemble) const {
    std::vector<caf::actor> members;
    const auto add = [&](schema::ActorAddress::Reader address) {
      if (caf::actor found = parts->options.resolver(address)) members.push_back(std::move(found));
    };
    for (const auto address : assemble.getActors()) {
      if (parts->options.actor != address.getActor().cStr()) add(address);
      const auto supervisor = fabric::make_message<schema::ActorAddress>([&](schema::ActorAddress::Builder out) {
        out.setNode(address.getNode());
        out.setActor(kSupervisorName);
        out.setEndpoint(address.getEndpoint());
      });
      add(*supervisor.read());
    }
    return members;
  }

  void ask_members_for_metrics() {
    std::vector<caf::actor> all;
    std::set<caf::actor> seen;  // a node may have actors of several replicas
    for (const auto& [number, replica] : replicas) {
      for (const caf::actor& member : replica.members) {
        if (seen.insert(member).second) all.push_back(member);
      }
    }
    cluster_metrics->work_with(all);
  }

  void lose_scheduler(std::uint32_t number, const std::string& reason) {
    ReplicaLink& replica = replicas[number];
    router->remove(number);
    parts->room->remove(number);
    update_readiness();
    if (!replica.scheduler) return;
    self->demonitor(replica.scheduler);
    replica.scheduler = nullptr;
    if (!live->empty()) spdlog::warn("requests in flight on replica {} fail: {}", number, reason);
    live->fail_replica(number, http_error(503, reason + "; try again later"));
    end_when_empty();
  }

  // Without a member a replica takes nothing new; what is in flight is its scheduler's to fail, unless that is gone.
  void lose(schema::Lost::Reader lost) {
    for (const auto actor : lost.getActors()) {
      const auto number = replica_of(actor.cStr());
      if (!number) continue;
      router->remove(*number);
      parts->room->remove(*number);
      if (scheduler_name(*number) == actor.cStr()) {
        lose_scheduler(*number, std::string("the scheduler is away: ") + lost.getReason().cStr());
      }
    }
    update_readiness();
  }

  void accept(schema::Deltas::Reader deltas) {
    if (deltas.getQueueRoom() != kRoomNotTold) tell_room(deltas.getQueueRoom(), deltas.getRetryAfterMs());
    cancel(live->accept(deltas, std::chrono::steady_clock::now()));
    end_when_empty();
  }

  // What the sender of the message at hand says of its queue.
  void tell_room(std::uint32_t requests, std::uint32_t retry_after_ms) {
    for (const auto& [number, replica] : replicas) {
      if (replica.scheduler && self->current_sender() == replica.scheduler) {
        parts->room->tell(number, requests, retry_after_ms);
      }
    }
  }

  caf::typed_response_promise<OutcomeMessage> drain(schema::Drain::Reader request) {
    draining = true;
    parts->backend->is_ready = false;
    parts->server->drain();
    auto promise = self->make_response_promise<OutcomeMessage>();
    drained.push_back(promise);
    self->delayed_send(self, std::chrono::milliseconds(request.getDeadlineMs()), DrainDeadline{});
    end_when_empty();
    return promise;
  }

  // Who has nothing at the scheduler hears nothing from it, and whoever drains is done.
  void end_when_empty() {
    if (!live->empty()) return;
    parts->room->forget();
    if (!draining) return;
    for (auto& promise : drained) promise.deliver(outcome_of({}));
    drained.clear();
  }

  StatsMessage stats() const {
    return fabric::make_message<schema::Stats>([&](schema::Stats::Builder stats) {
      stats.setActor(parts->options.actor);
      stats.initNode().setName(parts->options.node);
      stats.getNode().setIncarnation(parts->options.incarnation);
      write_families(parts->metrics->collect(), stats);
    });
  }

  void scrape(const std::shared_ptr<HttpResponder>& responder) {
    cluster_metrics->collect([metrics = parts->metrics, responder](const MetricFamilies& others) {
      MetricFamilies families = metrics->collect();
      merge_metric_families(families, others);
      HttpResponse response;
      response.content_type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = render_metrics(families);
      responder->send(std::move(response));
    });
  }

  Self* self = nullptr;
  std::shared_ptr<Parts> parts;
  std::unique_ptr<LiveRequests> live;
  std::unique_ptr<ClusterMetrics> cluster_metrics;
  std::optional<engine::ReplicaRouter> router;
  std::map<std::uint32_t, ReplicaLink> replicas;
  bool draining = false;
  std::vector<caf::typed_response_promise<OutcomeMessage>> drained;
};

caf::behavior gateway_actor(GatewayState::Self* self, const std::shared_ptr<Parts>& parts) {
  GatewayState& state = self->state;
  state.self = self;
  state.parts = parts;
  state.router.emplace(parts->options.routing);
  state.live = std::make_unique<LiveRequests>(parts->counters, *state.router);
  state.cluster_metrics = std::make_unique<ClusterMetrics>(self);
  self->set_down_handler([self](const caf::down_msg& down) {
    for (const auto& [number, replica] : self->state.replicas) {
      if (replica.scheduler && down.source == replica.scheduler) {
        return self->state.lose_scheduler(number, "the scheduler is away");
      }
    }
  });
  return {
      [self](const Submitted& message) { self->state.submit(message.submission); },
      [self](const ClientGone& message) {
        self->state.cancel(self->state.live->drop(message.first_request, message.choices));
        self->state.end_when_empty();
      },
      [self](const Scrape& message) { self->state.scrape(message.responder); },
      [self](MetricsDeadline deadline) { self->state.cluster_metrics->close_round(deadline); },
      [self](DrainDeadline) {
        self->state.cancel(self->state.live->fail_all(http_error(503, "the gateway is ending")));
        self->state.end_when_empty();
      },
      [self](const fabric::Message<schema::Deltas>& message) {
        const auto reader = message.read();
        self->state.accept(reader.root());
      },
      [self](const fabric::Message<schema::Assemble>& message) {
        const auto reader = message.read();
        return self->state.assemble(reader.root());
      },
      [self](const fabric::Message<schema::Lost>& message) {
        const auto reader = message.read();
        self->state.lose(reader.root());
      },
      [self](const fabric::Message<schema::Drain>& message) {
        const auto reader = message.read();
        return self->state.drain(reader.root());
      },
      [self](const fabric::Message<schema::StatsRequest>&) { return self->state.stats(); },
  };
}

// "host:port", with brackets around an IPv6 address.
Result<std::pair<std::string, std::uint16_t>> parse_listen(const std::string& listen) {
  const std::size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  std::uint16_t port = 0;
  const char* const end = listen.data() + listen.size();
  const bool has_port = colon != std::string::npos && colon + 1 < listen.size();
  const auto parsed = has_port ? std::from_chars(listen.data() + colon + 1, end, port) : std::from_chars_result{};
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    host.clear();
  }
  if (!has_port || host.empty() || parsed.ec != std::errc() || parsed.ptr != end) {
    return invalid_argument("listen is \"" + printable(listen) + "\"; write host:port, such as 127.0.0.1:8080",
                            "listen");
  }
  return std::pair{host, port};
}

Result<void> check_options(const GatewayOptions& options) {
  if (options.served_name.empty()) return invalid_argument("the served model has no name", "served_name");
  if (options.vocab_size == 0) return invalid_argument("the model's vocabulary is empty", "vocab_size");
  if (options.max_model_len == 0) return invalid_argument("max_model_len is 0", "max_model_len");
  return {};
}

}  // namespace

Result<Gateway> spawn_gateway(caf::actor_system& system, GatewayOptions options) {
  TROUPE_RETURN_IF_ERROR(check_options(options));
  TROUPE_ASSIGN_OR_RETURN(const auto listen, parse_listen(options.listen));
  auto model = std::make_shared<ServedModel>();
  model->name = options.served_name;
  model->vocab_size = options.vocab_size;
  model->max_model_len = options.max_model_len;
  model->eos_token_ids = options.eos_token_ids;
  model->sampling = options.sampling;
  model->created = std::time(nullptr);
  TROUPE_RETURN_IF_ERROR(load_text_parts(options.model_path, options.limits, *model));

  auto parts = std::make_shared<Parts>();
  parts->metrics = options.metrics ? options.metrics : std::make_shared<Metrics>();
  parts->counters = std::make_shared<GatewayMetrics>(*parts->metrics);
  parts->backend = std::make_shared<ActorBackend>();
  OpenAiApiOptions api_options{options.api_keys, options.version, options.incarnation, options.limits};
  parts->room = std::make_shared<SchedulerRoom>(options.limits.queue);
  parts->api = std::make_unique<OpenAiApi>(model, std::move(api_options), parts->counters, parts->backend, parts->room);
  HttpServerOptions server_options{listen.first, listen.second};
  server_options.limits = options.limits;
  TROUPE_ASSIGN_OR_RETURN(parts->server, HttpServer::bind(std::move(server_options)));
  parts->options = std::move(options);

  Gateway gateway;
  gateway.address = parts->server->address();
  gateway.port = parts->server->port();
  gateway.actor = system.spawn<caf::detached>(gateway_actor, parts);
  parts->backend->actor = gateway.actor;
  parts->metrics->add_source([weak = std::weak_ptr(parts)]() -> MetricFamilies {
    const auto alive = weak.lock();
    if (!alive) return {};
    prometheus::ClientMetric connections;
    connections.gauge.value = static_cast<double>(alive->server->connections());
    return {{"troupe_http_connections", "Open HTTP connections.", prometheus::MetricType::Gauge, {connections}}};
  });
  OpenAiApi* const api = parts->api.get();
  parts->server->start(
      [api](HttpRequest request, std::shared_ptr<HttpResponder> responder) {
        api->handle(std::move(request), std::move(responder));
      },
      [api](unsigned status, std::string_view message) { return api->refusal(status, message); });
  return gateway;
}

Result<std::vector<std::string>> read_api_keys(const std::filesystem::path& file) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  if (error) return not_found("cannot read the API key file " + file.string() + ": " + error.message());
  if (size > kKeyFileBytes) return invalid_argument("the API key file " + file.string() + " is larger than 1 MiB");
  std::ifstream input(file);
  std::vector<std::string> keys;
  std::string line;
  while (std::getline(input, line)) {
    const std::size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos || line[begin] == '#') continue;
    keys.push_back(line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1));
  }
  if (input.bad()) return unavailable("cannot read the API key file " + file.string());
  if (keys.empty()) return invalid_argument("the API key file " + file.string() + " holds no key; put one on a line");
  return keys;
}

}  // namespace troupe
