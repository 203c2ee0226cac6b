#include "actors/scheduler.h"

#include <caf/all.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "actors/interfaces.h"
#include "actors/names.h"
#include "actors/outcome.h"
#include "actors/record_file.h"
#include "actors/scheduler_metrics.h"
#include "runtime/base/log.h"
#include "runtime/engine/error_info.h"
#include "runtime/engine/recorded_engine.h"

namespace troupe {

namespace {

using caf::result;
using engine::Delta;
using fabric::make_message;
using fabric::Message;
using fabric::MessageBuilder;
using TimePoint = caf::actor_clock::time_point;
using std::chrono::milliseconds;

// Sent to itself when the next deadline is due.
using DueAtom = caf::atom_constant<caf::atom("due")>;
using SchedulerImpl = SchedulerActor::extend<caf::reacts_to<DueAtom>>;

constexpr std::uint64_t kMostRoom = 0xfffffffe;  // of Deltas.queueRoom, below what says nothing

std::uint64_t nanoseconds(TimePoint time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count());
}

engine::RecordSink sink_to(RecordFile* file) {
  if (file == nullptr) return {};
  return [file](kj::Array<capnp::word> entry) { file->append(std::move(entry)); };
}

double seconds(caf::actor_clock::duration_type duration) { return std::chrono::duration<double>(duration).count(); }

struct Gateway {
  std::uint64_t owner = 0;  // its number in the engine
  GatewayActor handle;
};

struct SentStep {
  std::uint64_t epoch;
  std::uint64_t step;
  TimePoint sent;
};

class SchedulerState {
 public:
  SchedulerState(SchedulerImpl::pointer self, SchedulerOptions options, std::unique_ptr<RecordFile> record)
      : self_(self),
        options_(std::move(options)),
        record_(std::move(record)),
        engine_(options_.engine, sink_to(record_.get()), nanoseconds(now())),
        metrics_(options_.replica),
        away_since_(now()) {}

  void generate(const Message<schema::Generate>& message) {
    const auto sender = caf::actor_cast<caf::actor>(self_->current_sender());
    if (!sender) return;  // nobody to answer
    const auto request = message.read();
    const std::uint64_t owner = owner_of(sender);
    Result<void> admitted = drain_ ? Result<void>(unavailable("the scheduler is shutting down; ask again later"))
                                   : engine_.admit(owner, request.root(), nanoseconds(now()));
    if (!admitted.ok()) {
      Delta refusal{.owner = owner, .request = request->getRequest()};
      refusal.finish = schema::FinishReason::ERROR;
      refusal.error = std::move(admitted).error();
      send_deltas({std::move(refusal)});
      return;
    }
    turn();
  }

  void cancel(const Message<schema::Cancel>& message) {
    const auto found = gateways_.find(caf::actor_cast<caf::actor_addr>(self_->current_sender()));
    if (found == gateways_.end()) return;
    engine_.cancel(found->second.owner, message.read()->getRequest());
    turn();
  }

  void step_result(const Message<schema::StepResult>& message) {
    const auto result = message.read();
    const auto fence = result->getFence();
    const auto sent = std::find_if(sent_.begin(), sent_.end(), [&](const SentStep& step) {
      return step.epoch == fence.getEpoch() && step.step == fence.getStep();
    });
    if (sent == sent_.end()) {
      metrics_.dropped_stale_result();
      return;
    }
    metrics_.step_took(seconds(now() - sent->sent));
    sent_.erase(sent);
    // One stage computes steps one after the other: the next one begins now, if it did not yet.
    if (options_.engine.pipeline_stages == 1 && !sent_.empty()) sent_.front().sent = now();
    std::vector<Delta> deltas = engine_.apply(result.root(), nanoseconds(now()));
    // One that went on from what this one did not draw has failed with it.
    sent_.erase(sent_.begin() + static_cast<std::ptrdiff_t>(engine_->steps_in_flight()), sent_.end());
    if (result->getFailed()) {
      const std::string reason = one_line(result->getError().getMessage().cStr());
      spdlog::warn("step {} of epoch {} failed: {}", fence.getStep(), fence.getEpoch(), reason);
      // Whoever failed takes no further step of this epoch.
      if (engine::is_of_a_member(engine::read_error(result->getError()))) report_stuck("a step failed: " + reason);
    }
    send_steps();  // first, so that the stages go on, and the gateways hear of the room that it makes in the queue
    send_deltas(std::move(deltas));
    turn();
  }

  void lost(const Message<schema::Lost>& message) {
    const auto loss = message.read();
    for (const auto actor : loss->getActors()) {
      if (replica_of(actor.cStr()) != options_.replica) continue;
      go_away(printable(actor.cStr()) + " is lost: " + one_line(loss->getReason().cStr()));
      return;
    }
  }

  Message<schema::Outcome> assemble(const Message<schema::Assemble>& message) {
    const auto assembly = message.read();
    if (assembly->getEpoch() <= epoch_) {
      return outcome_of(invalid_argument("epoch " + std::to_string(assembly->getEpoch()) + " is over; this is epoch " +
                                         std::to_string(epoch_)));
    }
    if (assembly->getReplica() != options_.replica) {
      return outcome_of(invalid_argument("replica " + std::to_string(assembly->getReplica()) + " is assembled, but " +
                                         scheduler_name(options_.replica) + " is not of it"));
    }
    const std::string first_stage = stage_name(options_.replica, 0);
    caf::actor stage;
    caf::actor draft;
    for (const auto address : assembly->getActors()) {
      if (first_stage == address.getActor().cStr()) stage = options_.resolve(address);
      if (draft_name(options_.replica) == address.getActor().cStr()) draft = options_.resolve(address);
    }
    if (!stage) return outcome_of(unavailable("no way to " + first_stage + ": not in Assemble, or not connected"));

    supervisor_ = caf::actor_cast<SupervisorActor>(self_->current_sender());
    epoch_ = assembly->getEpoch();
    if (stage_) self_->demonitor(stage_.address());
    stage_ = caf::actor_cast<StageActor>(stage);
    self_->monitor(stage_);
    if (draft_) self_->demonitor(draft_.address());
    forget_draft();
    if (draft) {
      draft_ = caf::actor_cast<DraftActor>(draft);
      self_->monitor(draft_);
    }
    away_since_.reset();
    sent_.clear();
    send_deltas(engine_.reset_for_epoch(
        options_.replica, epoch_,
        unavailable("the replica lost a member each time that this request ran; send it again later")));
    turn();
    return outcome_of({});
  }

  caf::typed_response_promise<Message<schema::Outcome>> drain(const Message<schema::Drain>& message) {
    auto promise = self_->make_response_promise<Message<schema::Outcome>>();
    const TimePoint deadline = now() + milliseconds(message.read()->getDeadlineMs());
    if (drain_) {
      drain_->deadline = std::min(drain_->deadline, deadline);
    } else {
      drain_ = Draining{.deadline = deadline};
    }
    drain_->promises.push_back(promise);
    turn();
    return promise;
  }

  Message<schema::Stats> stats() {
    return make_message<schema::Stats>([&](schema::Stats::Builder stats) {
      stats.setActor(scheduler_name(options_.replica));
      metrics_.write(*engine_, stats);
    });
  }

  void down(const caf::down_msg& message) {
    if (stage_ && message.source == stage_) {
      go_away("stage 0 is down: " + self_->system().render(message.reason));
      return;
    }
    if (draft_ && message.source == draft_) return lose_draft("it is down: " + self_->system().render(message.reason));
    const auto gateway = gateways_.find(message.source);
    if (gateway == gateways_.end()) return;
    engine_.cancel_all(gateway->second.owner);
    gateways_.erase(gateway);
    turn();
  }

  // Something's deadline may be over.
  void due() {
    const TimePoint time = now();
    wake_at_.reset();
    send_deltas(engine_.expire(nanoseconds(time)));
    if (!sent_.empty() && time >= sent_.front().sent + step_timeout()) {
      const std::string took = std::to_string(step_timeout().count()) + " ms (limit step_timeout_ms)";
      spdlog::warn("step {} of epoch {} gave no result within {}", sent_.front().step, epoch_, took);
      sent_.clear();
      send_deltas(engine_.fail_in_flight(deadline_exceeded("the model gave no result within " + took)));
      report_stuck("a step gave no result within " + took);
    }
    if (away_since_ && time >= *away_since_ + away_wait()) {
      const Error error = unavailable("the model has been away for more than " + std::to_string(away_wait().count()) +
                                      " ms (limit away_wait_ms); ask again later");
      send_deltas(engine_.fail_waiting(error, nanoseconds(time - away_wait()) + 1));
    }
    if (const auto deadline = engine_->draft_deadline_ns(); deadline && nanoseconds(time) >= *deadline) {
      metrics_.gave_up_on_draft();
      engine_.stop_waiting_for_draft();
    }
    if (drain_ && time >= drain_->deadline) {
      sent_.clear();
      send_deltas(engine_.fail_all(unavailable("the scheduler is shutting down; this request was cut off")));
    }
    turn();
  }

 private:
  struct Draining {
    TimePoint deadline;
    std::vector<caf::typed_response_promise<Message<schema::Outcome>>> promises;
  };

  TimePoint now() const { return self_->clock().now(); }
  milliseconds step_timeout() const { return milliseconds(options_.engine.limits.step_timeout_ms); }
  milliseconds away_wait() const { return milliseconds(options_.engine.limits.away_wait_ms); }

  // Ends every event: whatever can run is sent, and whoever waits for the end is answered.
  void turn() {
    send_steps();
    if (drain_ && engine_->idle()) {
      for (auto& promise : std::exchange(drain_->promises, {})) promise.deliver(outcome_of({}));
    }
    wake_when_due();
  }

  void send_steps() {
    while (!away_since_) {
      if (draft_) ask_draft();
      MessageBuilder<schema::Step> builder;
      if (!engine_.form_step(builder.root(), nanoseconds(now()))) break;
      sent_.push_back({.epoch = epoch_, .step = builder.root().getFence().getStep(), .sent = now()});
      self_->send(stage_, std::move(builder).finish());
    }
  }

  void ask_draft() {
    MessageBuilder<schema::DraftRequest> builder;
    if (!engine_.form_draft_request(builder.root(), nanoseconds(now()))) return;
    self_->request(draft_, step_timeout(), std::move(builder).finish())
        .then(
            [this, drafts = drafts_](const Message<schema::DraftReply>& message) {
              if (drafts != drafts_) return;
              const auto reply = message.read();
              engine_.take_guesses(reply.root(), nanoseconds(now()));
              turn();
            },
            [this, drafts = drafts_](const caf::error& error) {
              if (drafts == drafts_) lose_draft("it does not answer: " + self_->system().render(error));
            });
  }

  void lose_draft(const std::string& reason) {
    spdlog::warn("no guesses of the draft until the next epoch: {}", reason);
    forget_draft();
    turn();
  }

  void forget_draft() {
    draft_ = DraftActor{};
    ++drafts_;
    engine_.lose_draft();
  }

  // At most one timer runs towards the nearest deadline; it may find that nothing is due any more.
  void wake_when_due() {
    std::optional<TimePoint> next;
    const auto consider = [&](TimePoint time) { next = next ? std::min(*next, time) : time; };
    if (!sent_.empty()) consider(sent_.front().sent + step_timeout());
    if (const auto waiting = engine_->oldest_waiting_ns(); waiting && away_since_) {
      const TimePoint oldest = TimePoint(std::chrono::nanoseconds(*waiting));
      consider(std::max(oldest, *away_since_) + away_wait());
    }
    if (drain_ && !engine_->idle()) consider(drain_->deadline);
    if (const auto expiry = engine_->next_expiry_ns()) consider(TimePoint(std::chrono::nanoseconds(*expiry)));
    if (const auto deadline = engine_->draft_deadline_ns()) consider(TimePoint(std::chrono::nanoseconds(*deadline)));
    if (!next || (wake_at_ && *wake_at_ <= *next)) return;
    wake_at_ = next;
    self_->delayed_send(self_, *next - now(), DueAtom::value);
  }

  void go_away(const std::string& reason) {
    if (away_since_) return;
    spdlog::warn("no steps until the next epoch: {}", reason);
    away_since_ = now();
    sent_.clear();
    send_deltas(engine_.fail_in_flight(unavailable(reason + "; send the request again later")));
    turn();
  }

  // Some member did not do its part and nobody knows what its pages hold: only a new epoch mends that.
  void report_stuck(const std::string& reason) {
    go_away(reason);
    if (!supervisor_) return;
    self_->send(supervisor_, make_message<schema::Lost>([&](schema::Lost::Builder lost) {
                  lost.initActors(1).set(0, stage_name(options_.replica, 0));
                  lost.setReason(reason);
                }));
  }

  std::uint64_t owner_of(const caf::actor& gateway) {
    const auto [entry, is_new] = gateways_.try_emplace(caf::actor_cast<caf::actor_addr>(gateway));
    if (is_new) {
      entry->second = {.owner = next_owner_++, .handle = caf::actor_cast<GatewayActor>(gateway)};
      self_->monitor(gateway);
    }
    return entry->second.owner;
  }

  // One message for each gateway that is concerned.
  void send_deltas(std::vector<Delta> deltas) {
    if (deltas.empty()) return;
    const engine::QueueRoom room = engine_->queue_room();
    for (const auto& entry : gateways_) {
      const Gateway& gateway = entry.second;
      const auto theirs = std::partition(deltas.begin(), deltas.end(),
                                         [&](const Delta& delta) { return delta.owner != gateway.owner; });
      const auto count = static_cast<unsigned>(deltas.end() - theirs);
      if (count == 0) continue;
      self_->send(gateway.handle, make_message<schema::Deltas>([&](schema::Deltas::Builder message) {
                    message.setQueueRoom(static_cast<std::uint32_t>(std::min(room.requests, kMostRoom)));
                    message.setRetryAfterMs(room.retry_after_ms);
                    auto items = message.initItems(count);
                    for (unsigned i = 0; i < count; ++i) {
                      if (theirs[i].queue_ns > 0)
                        metrics_.request_waited(static_cast<double>(theirs[i].queue_ns) * 1e-9);
                      engine::write_delta(theirs[i], items[i]);
                    }
                  }));
      deltas.erase(theirs, deltas.end());
    }
  }

  SchedulerImpl::pointer self_;
  const SchedulerOptions options_;
  const std::unique_ptr<RecordFile> record_;  // null when nothing is recorded
  engine::RecordedEngine engine_;
  SchedulerMetrics metrics_;
  std::map<caf::actor_addr, Gateway> gateways_;
  std::uint64_t next_owner_ = 1;
  StageActor stage_;
  DraftActor draft_;                     // null: there is none, or it is gone
  std::uint64_t drafts_ = 0;             // grows when one is gone: what it was asked is answered in vain
  SupervisorActor supervisor_;           // whoever assembled the replica last
  std::uint64_t epoch_ = 0;              // 0 = never assembled
  std::vector<SentStep> sent_;           // in flight, oldest first
  std::optional<TimePoint> away_since_;  // no member is missing when empty
  std::optional<Draining> drain_;
  std::optional<TimePoint> wake_at_;
};

// The state needs its actor when it is made, which CAF's stateful_actor does not offer.
struct StateHolder {
  std::optional<SchedulerState> state;
};

SchedulerImpl::behavior_type scheduler(SchedulerImpl::stateful_pointer<StateHolder> self, SchedulerOptions options,
                                       std::shared_ptr<std::unique_ptr<RecordFile>> record) {
  SchedulerState& state = self->state.state.emplace(self, std::move(options), std::move(*record));
  self->set_down_handler([&state](const caf::down_msg& message) { state.down(message); });
  return {[&state](const Message<schema::Generate>& message) { state.generate(message); },
          [&state](const Message<schema::Cancel>& message) { state.cancel(message); },
          [&state](const Message<schema::StepResult>& message) { state.step_result(message); },
          [&state](const Message<schema::Lost>& message) { state.lost(message); },
          [&state](const Message<schema::Assemble>& message) { return state.assemble(message); },
          [&state](const Message<schema::Drain>& message) { return state.drain(message); },
          [&state](const Message<schema::StatsRequest>&) { return state.stats(); },
          [&state](DueAtom) { state.due(); }};
}

}  // namespace

Result<caf::actor> spawn_scheduler(caf::actor_system& system, SchedulerOptions options) {
  auto record = std::make_shared<std::unique_ptr<RecordFile>>();  // CAF copies what an actor is spawned with
  if (!options.record_file.empty()) {
    TROUPE_ASSIGN_OR_RETURN(*record, RecordFile::create(options.record_file, options.engine.limits));
  }
  return caf::actor_cast<caf::actor>(system.spawn(scheduler, std::move(options), std::move(record)));
}

}  // namespace troupe
