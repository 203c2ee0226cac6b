#include "actors/shard.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <optional>

#include <caf/all.hpp>

#include "actors/arena_metrics.h"
#include "actors/device_group.h"
#include "actors/expert_requests.h"
#include "actors/f32_matrix.h"
#include "actors/load_report.h"
#include "actors/outcome.h"
#include "actors/shard_compute.h"
#include "actors/stats.h"
#include "runtime/base/device.h"
#include "runtime/base/log.h"
#include "runtime/base/metrics.h"
#include "runtime/engine/error_info.h"
#include "runtime/fabric/message.h"
#include "schema/activation.capnp.h"
#include "schema/step.capnp.h"

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

// Sent to itself: the device is done with a step (epoch, step, whether it went well, else ErrorCode and message), and
// it is time to look for one that takes too long.
using DoneAtom = caf::atom_constant<caf::atom("done")>;
using LateAtom = caf::atom_constant<caf::atom("late")>;

std::uint64_t ns_since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

struct ShardState {
  const char* name = "shard";
  explicit ShardState(caf::stateful_actor<ShardState>* self) : self(self) {}

  caf::stateful_actor<ShardState>* self;
  ShardOptions options;
  std::optional<fabric::Message<schema::Spawn>> spawn;  // what was loaded
  std::unique_ptr<ShardCompute> compute;                // null before that
  std::uint32_t replica = 0;
  std::uint64_t epoch = 0;  // 0 = not assembled, or the group of the epoch is broken
  std::uint32_t stage_index = 0;
  std::uint32_t rank = 0;
  caf::actor stage;
  std::unique_ptr<ExpertRequests> experts;  // of the epoch; null where the stage has no expert actors

  struct StepTime {
    std::uint64_t compute_ns = 0;
    std::uint64_t collective_ns = 0;
    std::uint64_t expert_wait_ns = 0;  // of compute_ns
    std::uint64_t copy_ns = 0;         // of compute_ns
  };
  // A step that the device has, and whose result is not here.
  struct Launched {
    fabric::Message<schema::Step> message;
    std::uint64_t step = 0;
    std::size_t rows = 0;
    std::uint64_t copy_ns = 0;
    std::uint64_t collective_ns = 0;
    Clock::time_point start;
  };
  std::deque<Launched> launched;                        // oldest first; kMostStepsInFlight of them
  std::deque<fabric::Message<schema::Step>> postponed;  // until there are less of those
  Clock::time_point last_done;                          // of a step that was launched
  bool watches = false;                                 // a LateAtom is under way

  Metrics metrics;
  prometheus::Counter* compute_seconds = nullptr;
  prometheus::Counter* collective_seconds = nullptr;
  prometheus::Counter* expert_wait_seconds = nullptr;
  prometheus::Histogram* step_seconds = nullptr;
  prometheus::Counter* tokens = nullptr;

  void declare_metrics(const std::string& actor) {
    const MetricLabels labels = {{"actor", actor}, {"node", options.node}};
    compute_seconds = &metrics.counter("troupe_shard_compute_seconds_total", "Time in kernels and sampling", labels);
    collective_seconds =
        &metrics.counter("troupe_shard_collective_seconds_total", "Time with the other ranks of the group", labels);
    expert_wait_seconds =
        &metrics.counter("troupe_shard_expert_wait_seconds_total", "Time waiting for expert actors", labels);
    step_seconds = &metrics.histogram("troupe_shard_step_seconds", "From a step's arrival to its output",
                                      latency_bounds_seconds(), labels);
    tokens = &metrics.counter("troupe_shard_tokens_total", "Tokens computed", labels);
    metrics.gauge("troupe_shard_weight_bytes", "Bytes read from the model's files", labels)
        .Set(static_cast<double>(compute->transformer().checkpoint_bytes_read()));
  }

  // A device that failed says so at the next step.
  void measure_memory(const std::string& actor) {
    const auto levels = compute->transformer().memory_levels();
    if (levels.ok()) measure_arenas(*levels, actor, options.node, metrics);
  }

  // --- loading ---

  Result<std::string> load(const fabric::Message<schema::Spawn>& message, const caf::actor& asker) {
    const auto order = message.read();
    if (!order->isShard()) return invalid_argument("a shard was asked to be something else");
    const auto spec = order->getShard();
    const auto model_spec = order->getModel();

    TROUPE_ASSIGN_OR_RETURN(const Device device, parse_device(spec.getDevice().cStr()));
    const std::string actor = order->getActor();
    LoadReport report(actor, asker);
    const auto progress = [&](std::uint64_t bytes, std::uint64_t total_bytes) { report.progress(bytes, total_bytes); };
    TROUPE_ASSIGN_OR_RETURN(const kernels::DType kv_dtype, model::parse_kv_dtype(model_spec.getKvDtype().cStr()));
    const ShardComputeOptions plan = {.model = model_spec.getPath().cStr(),
                                      .first_layer = spec.getFirstLayer(),
                                      .last_layer = spec.getLastLayer(),
                                      .rank = spec.getRank(),
                                      .ranks = spec.getRanks(),
                                      .stages = spec.getStages(),
                                      .expert_shards = spec.getExperts(),
                                      .device = kernels::compute_device(device),
                                      .num_blocks = model_spec.getNumBlocks(),
                                      .num_swap_blocks = model_spec.getNumSwapBlocks(),
                                      .block_size = model_spec.getBlockSize(),
                                      .max_model_len = model_spec.getMaxModelLen(),
                                      .max_batch_tokens = model_spec.getMaxBatchTokens(),
                                      .max_batch_sequences = model_spec.getMaxBatchSequences(),
                                      .kv_dtype = kv_dtype,
                                      .packed_cache = model_spec.getPackedCache().cStr()};
    TROUPE_ASSIGN_OR_RETURN(compute, ShardCompute::load(plan, progress, options.limits));
    spawn = message;

    stage_index = spec.getStage();
    replica = spec.getReplica();
    rank = spec.getRank();
    declare_metrics(actor);
    return report.summary(compute->transformer().checkpoint_bytes_read(), compute->kernels_name());
  }

  Result<void> assemble(schema::Assemble::Reader plan) {
    if (!compute) return unavailable("the shard has not loaded its weights");
    forget_steps();
    caf::actor found;
    for (const auto address : plan.getActors()) {
      if (stage_name(replica, stage_index) == address.getActor().cStr()) found = options.resolve(address);
    }
    if (!found) return unavailable(stage_name(replica, stage_index) + " cannot be reached");
    compute->leave("the replica is assembled anew");  // first: it may hold much of the device's memory
    const auto order = spawn->read();
    TROUPE_ASSIGN_OR_RETURN(auto requests, requests_of(order->getShard(), plan));
    TROUPE_ASSIGN_OR_RETURN(auto host, options.make_communicator(order->getShard(), plan));
    TROUPE_ASSIGN_OR_RETURN(auto group,
                            join_device_group(std::move(host), order->getShard(), compute->memory(), options.limits));
    compute->join(std::move(group));
    compute->set_remote_experts(requests.get());
    experts = std::move(requests);
    stage = std::move(found);
    epoch = plan.getEpoch();
    return {};
  }

  // Null where the stage has no expert actors.
  Result<std::unique_ptr<ExpertRequests>> requests_of(schema::ShardSpec::Reader spec, schema::Assemble::Reader plan) {
    std::unique_ptr<ExpertRequests> requests;
    if (spec.getExperts() == 0) return requests;
    std::vector<caf::actor> actors(spec.getExperts());
    for (const auto address : plan.getActors()) {
      for (std::uint32_t expert = 0; expert < actors.size(); ++expert) {
        if (expert_name(replica, stage_index, expert) == address.getActor().cStr()) {
          actors[expert] = options.resolve(address);
        }
      }
    }
    for (std::uint32_t expert = 0; expert < actors.size(); ++expert) {
      if (!actors[expert]) return unavailable(expert_name(replica, stage_index, expert) + " cannot be reached");
    }
    requests = std::make_unique<ExpertRequests>(
        self->system(), ExpertRequestsOptions{.experts = std::move(actors),
                                              .replica = replica,
                                              .epoch = plan.getEpoch(),
                                              .timeout = std::chrono::milliseconds(options.limits.step_timeout_ms)});
    return requests;
  }

  // --- steps ---

  bool is_current(schema::Fence::Reader fence) const {
    return epoch != 0 && fence.getReplica() == replica && fence.getEpoch() == epoch;
  }

  // What an earlier stage has made of the step.
  struct Input {
    schema::Activation::Reader activation;
    std::span<const fabric::Attachment> attachments;
  };

  // On the first stage.
  void run(const fabric::Message<schema::Step>& message) {
    const auto step = message.read();
    if (!is_current(step->getFence())) return;
    if (!works_on()) return run(step.root(), nullptr);
    if (postponed.size() == engine::kMostStepsInFlight) {
      return fail_oldest(step->getFence(), resource_exhausted("more steps at a time than a shard takes"));
    }
    postponed.push_back(message);
    launch_postponed();
  }

  // `input` is null on the first stage.
  void run(schema::Step::Reader step, const Input* input) {
    if (!is_current(step.getFence())) return;
    if (auto result = take_step(step, input); !result.ok()) fail(step.getFence(), result.error());
  }

  // Whether it goes back to its mailbox while the device computes. What asks other actors in between waits for them.
  bool works_on() const {
    return compute->is_async() && compute->transformer().slice().is_first_stage() && experts == nullptr;
  }

  void launch_postponed() {
    while (!postponed.empty() && launched.size() < engine::kMostStepsInFlight) {
      const fabric::Message<schema::Step> message = postponed.front();
      const auto step = message.read();
      if (!launched.empty() && compute->needs_drawn(step.root())) return;
      postponed.pop_front();
      if (auto result = launch(message, step.root()); !result.ok()) fail_oldest(step->getFence(), result.error());
    }
  }

  Result<void> launch(const fabric::Message<schema::Step>& message, schema::Step::Reader step) {
    Launched entry{.message = message, .step = step.getFence().getStep(), .start = Clock::now()};
    TROUPE_ASSIGN_OR_RETURN(entry.copy_ns, begin(step));
    entry.rows = compute->rows();
    const std::uint64_t collective_before = compute->transformer().collective_ns();
    TROUPE_RETURN_IF_ERROR(compute->launch({}));
    entry.collective_ns = compute->transformer().collective_ns() - collective_before;
    launched.push_back(entry);
    compute->notify([shard = caf::actor_cast<caf::actor>(self), epoch = epoch, step = entry.step](Result<void> done) {
      const Error error = done.ok() ? Error{} : done.error();
      const auto code = static_cast<std::uint32_t>(error.code);
      caf::anon_send(shard, DoneAtom::value, epoch, step, done.ok(), code, error.message);
    });
    watch();
    return {};
  }

  // The device is done with the oldest step that was launched, which is this one.
  void done(std::uint64_t of_epoch, std::uint64_t step, bool went_well, std::uint32_t code,
            const std::string& message) {
    if (epoch == 0 || of_epoch != epoch || launched.empty() || launched.front().step != step) return;
    const Launched entry = std::move(launched.front());
    launched.pop_front();
    const auto reader = entry.message.read();
    const Result<void> outcome = went_well ? Result<void>() : Error{static_cast<ErrorCode>(code), message, {}};
    if (auto finished = finish(entry, reader.root(), outcome); !finished.ok()) {
      return fail(reader->getFence(), finished.error());
    }
    launch_postponed();
  }

  // outcome: of the device.
  Result<void> finish(const Launched& entry, schema::Step::Reader step, const Result<void>& outcome) {
    TROUPE_RETURN_IF_ERROR(compute->collect(entry.step, outcome));
    // The device began with it when it was done with the one before.
    StepTime time = account(std::max(entry.start, last_done), entry.collective_ns, 0, entry.rows);
    time.copy_ns = std::min(entry.copy_ns, time.compute_ns);
    last_done = Clock::now();
    return send_result(step, {}, time);
  }

  // What went wrong with a step that is not launched is told of the oldest one that is: it ends them all.
  void fail_oldest(schema::Fence::Reader fence, const Error& error) {
    if (launched.empty()) return fail(fence, error);
    const auto oldest = launched.front().message.read();
    fail(oldest->getFence(), error);
  }

  void forget_steps() {
    epoch = 0;
    launched.clear();
    postponed.clear();
  }

  // One timer at a time runs until the oldest step that was launched takes too long.
  void watch() {
    if (watches || launched.empty()) return;
    watches = true;
    const auto begun = std::max(launched.front().start, last_done);
    const auto left = begun + std::chrono::milliseconds(options.limits.step_timeout_ms) - Clock::now();
    self->delayed_send(self, std::max(left, Clock::duration::zero()), LateAtom::value);
  }

  void look_for_late() {
    watches = false;
    const auto timeout = std::chrono::milliseconds(options.limits.step_timeout_ms);
    if (!launched.empty() && Clock::now() - std::max(launched.front().start, last_done) >= timeout) {
      const auto oldest = launched.front().message.read();
      return fail(oldest->getFence(),
                  deadline_exceeded("the device was not done after " + std::to_string(options.limits.step_timeout_ms) +
                                    " ms (limit step_timeout_ms)"));
    }
    watch();
  }

  // Begins a step and makes its copies, which take the returned nanoseconds.
  Result<std::uint64_t> begin(schema::Step::Reader step) {
    if (experts) experts->begin_step(step.getFence().getStep());
    TROUPE_RETURN_IF_ERROR(compute->begin_step(step));
    if (compute->copies() == 0) return 0;
    const auto copy_start = Clock::now();
    TROUPE_RETURN_IF_ERROR(compute->copy_blocks());
    return ns_since(copy_start);
  }

  Result<void> take_step(schema::Step::Reader step, const Input* input) {
    const auto start = Clock::now();
    const model::Transformer& transformer = compute->transformer();
    const std::uint64_t collective_before = transformer.collective_ns();
    const std::uint64_t expert_wait_before = transformer.expert_wait_ns();
    TROUPE_ASSIGN_OR_RETURN(const std::uint64_t copy_ns, begin(step));

    kernels::ConstMatrixF32 hidden_in;
    capnp::List<schema::StageTiming>::Reader earlier;
    if (input != nullptr) {
      TROUPE_ASSIGN_OR_RETURN(hidden_in, read_matrix(input->activation.getHidden(), input->attachments, compute->rows(),
                                                     compute->rows(), transformer.config().hidden_size, "activation"));
      earlier = input->activation.getTimings();
    }
    TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 hidden, compute->launch(hidden_in));
    const Result<void> outcome = compute->is_async() ? compute->wait() : Result<void>();
    TROUPE_RETURN_IF_ERROR(compute->collect(step.getFence().getStep(), outcome));

    StepTime time = account(start, transformer.collective_ns() - collective_before,
                            transformer.expert_wait_ns() - expert_wait_before, compute->rows());
    time.copy_ns = copy_ns;
    if (rank != 0) return {};
    if (transformer.slice().is_last_stage()) return send_result(step, earlier, time);
    send_activation(step, hidden, earlier, time);
    return {};
  }

  StepTime account(Clock::time_point start, std::uint64_t collective_ns, std::uint64_t expert_wait_ns,
                   std::size_t token_count) {
    const std::uint64_t ns = ns_since(start);
    collective_ns = std::min(collective_ns, ns);  // some of it may lie before the end of the step before
    const StepTime time = {
        .compute_ns = ns - collective_ns, .collective_ns = collective_ns, .expert_wait_ns = expert_wait_ns};
    compute_seconds->Increment(static_cast<double>(time.compute_ns - time.expert_wait_ns) * 1e-9);
    collective_seconds->Increment(static_cast<double>(time.collective_ns) * 1e-9);
    expert_wait_seconds->Increment(static_cast<double>(time.expert_wait_ns) * 1e-9);
    step_seconds->Observe(static_cast<double>(time.compute_ns + time.collective_ns) * 1e-9);
    tokens->Increment(static_cast<double>(token_count));
    return time;
  }

  void write_timings(capnp::List<schema::StageTiming>::Reader earlier, const StepTime& time,
                     capnp::List<schema::StageTiming>::Builder out) const {
    for (unsigned i = 0; i < earlier.size(); ++i) out.setWithCaveats(i, earlier[i]);
    auto own = out[earlier.size()];
    own.setStage(stage_index);
    own.setComputeNs(time.compute_ns);
    own.setCollectiveNs(time.collective_ns);
    own.setCopyNs(time.copy_ns);
  }

  Result<void> send_result(schema::Step::Reader step, capnp::List<schema::StageTiming>::Reader earlier,
                           const StepTime& time) {
    fabric::MessageBuilder<schema::StepResult> builder;
    auto out = builder.root();
    out.setFence(step.getFence());
    TROUPE_RETURN_IF_ERROR(compute->write_result(step.getFence().getStep(), out));
    write_timings(earlier, time, out.initTimings(earlier.size() + 1));
    self->send(stage, std::move(builder).finish());
    return {};
  }

  void send_activation(schema::Step::Reader step, kernels::ConstMatrixF32 hidden,
                       capnp::List<schema::StageTiming>::Reader earlier, const StepTime& time) {
    fabric::MessageBuilder<schema::Activation> builder;
    auto out = builder.root();
    out.setStep(step);
    out.setProducedBy(stage_index);
    write_timings(earlier, time, out.initTimings(earlier.size() + 1));
    const kernels::MatrixF32 copy = attach_matrix(hidden.rows, hidden.cols, builder, out.initHidden());
    for (std::size_t row = 0; row < hidden.rows; ++row) std::copy_n(hidden.row(row), hidden.cols, copy.row(row));
    self->send(stage, std::move(builder).finish());
  }

  void fail(schema::Fence::Reader fence, const Error& error) {
    spdlog::error("step {} of epoch {} failed: {}", fence.getStep(), epoch, error.message);
    self->send(stage, fabric::make_message<schema::StepResult>([&](schema::StepResult::Builder out) {
                 out.setFence(fence);
                 out.setFailed(true);
                 engine::write_error(error, out.initError());
               }));
    forget_steps();
    compute->leave("another rank failed in a step");  // which the others must not wait for
    // Another rank that is gone makes a new epoch soon; anything else means that this rank no longer agrees with
    // the others, and only a new life mends that.
    if (error.code != ErrorCode::kUnavailable && error.code != ErrorCode::kCancelled) {
      self->quit(caf::make_error(caf::sec::runtime_error, error.message));
    }
  }

  fabric::Message<schema::Stats> stats() {
    if (compute) measure_memory(spawn->read()->getActor());
    return stats_of(spawn ? std::string(spawn->read()->getActor()) : "", options.node, options.incarnation, metrics);
  }
};

caf::behavior run_shard(caf::stateful_actor<ShardState>* self, ShardOptions options) {
  self->state.options = std::move(options);
  self->set_default_handler(caf::print_and_drop);
  return {
      [self](const fabric::Message<schema::Spawn>& message) {
        const auto detail = self->state.load(message, caf::actor_cast<caf::actor>(self->current_sender()));
        return spawned_of(message.read()->getActor(), detail);
      },
      [self](const fabric::Message<schema::Assemble>& message) {
        return outcome_of(self->state.assemble(*message.read()));
      },
      [self](const fabric::Message<schema::Step>& message) {
        if (self->state.compute) self->state.run(message);
      },
      [self](const fabric::Message<schema::Activation>& message) {
        const auto activation = message.read();
        const ShardState::Input input = {activation.root(), message.attachments()};
        if (self->state.compute) self->state.run(input.activation.getStep(), &input);
      },
      [self](DoneAtom, std::uint64_t epoch, std::uint64_t step, bool went_well, std::uint32_t code,
             const std::string& message) { self->state.done(epoch, step, went_well, code, message); },
      [self](LateAtom) { self->state.look_for_late(); },
      [self](const fabric::Message<schema::StatsRequest>&) { return self->state.stats(); },
  };
}

}  // namespace

caf::actor spawn_shard(caf::actor_system& system, ShardOptions options) {
  return system.spawn<caf::detached>(run_shard, std::move(options));
}

}  // namespace troupe
