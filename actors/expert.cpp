#include "actors/expert.h"

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include <caf/all.hpp>

#include "actors/arena_metrics.h"
#include "actors/f32_matrix.h"
#include "actors/interfaces.h"
#include "actors/load_report.h"
#include "actors/outcome.h"
#include "actors/stats.h"
#include "kernels/select.h"
#include "runtime/base/device.h"
#include "runtime/base/log.h"
#include "runtime/base/metrics.h"
#include "runtime/engine/error_info.h"
#include "runtime/model/config.h"
#include "runtime/model/expert_shard.h"

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;
using CombineBuilder = fabric::MessageBuilder<schema::Combine>;

// The pairs of a Dispatch, copied out of the message; the memory grows to the largest and is kept.
struct PairLists {
  std::vector<std::uint32_t> rows;
  std::vector<std::uint32_t> experts;
  std::vector<float> weights;

  void read(schema::Dispatch::Reader dispatch) {
    const auto copy = [](const auto& from, auto& to) {
      to.clear();
      for (const auto value : from) to.push_back(value);
    };
    copy(dispatch.getPairRows(), rows);
    copy(dispatch.getPairExperts(), experts);
    copy(dispatch.getPairWeights(), weights);
  }
  model::ExpertPairs view() const { return {rows, experts, weights}; }
};

struct ExpertState {
  const char* name = "expert";
  explicit ExpertState(caf::stateful_actor<ExpertState>* self) : self(self) {}

  caf::stateful_actor<ExpertState>* self;
  ExpertOptions options;
  std::string actor;
  std::unique_ptr<kernels::Kernels> kernels;
  std::unique_ptr<model::ExpertShard> experts;  // null before Spawn
  std::uint32_t replica = 0;
  std::uint64_t epoch = 0;  // 0 = not assembled
  PairLists pairs;

  Metrics metrics;
  prometheus::Counter* compute_seconds = nullptr;
  prometheus::Histogram* dispatch_seconds = nullptr;
  prometheus::Counter* tokens = nullptr;
  prometheus::Counter* expert_tokens = nullptr;
  prometheus::Counter* refused = nullptr;

  Result<std::string> load(schema::Spawn::Reader order, caf::actor asker) {
    if (!order.isExpert()) return invalid_argument("an expert was asked to be something else");
    const auto spec = order.getExpert();
    const auto model_spec = order.getModel();
    const std::string path = model_spec.getPath();
    actor = order.getActor();
    LoadReport report(actor, std::move(asker));
    TROUPE_ASSIGN_OR_RETURN(const Device device, parse_device(spec.getDevice().cStr()));
    TROUPE_ASSIGN_OR_RETURN(const model::ModelConfig config, model::load_config(path, options.limits));
    const model::Slice slice = {.first_layer = spec.getFirstLayer(),
                                .last_layer = spec.getLastLayer(),
                                .num_layers = config.num_layers,
                                .expert_shards = spec.getExperts(),
                                .expert_shard = spec.getExpert()};
    TROUPE_RETURN_IF_ERROR(model::check_slice(config, slice));
    TROUPE_ASSIGN_OR_RETURN(kernels, kernels::make_kernels(kernels::compute_device(device)));
    const auto progress = [&](std::uint64_t bytes, std::uint64_t total_bytes) { report.progress(bytes, total_bytes); };
    TROUPE_ASSIGN_OR_RETURN(experts, model::ExpertShard::load(path, config, slice, *kernels,
                                                              {.max_batch_tokens = model_spec.getMaxBatchTokens(),
                                                               .packed_cache = model_spec.getPackedCache().cStr()},
                                                              progress, options.limits));
    replica = spec.getReplica();
    declare_metrics();
    return report.summary(experts->weights().checkpoint.bytes_read(), kernels->name());
  }

  void declare_metrics() {
    const MetricLabels labels = {{"actor", actor}, {"node", options.node}};
    compute_seconds = &metrics.counter("troupe_expert_compute_seconds_total", "Time in kernels and sums", labels);
    dispatch_seconds = &metrics.histogram("troupe_expert_dispatch_seconds",
                                          "From a layer's rows being taken up to what the experts make of them",
                                          latency_bounds_seconds(), labels);
    tokens = &metrics.counter("troupe_expert_rows_total", "Token rows that came, each layer's counted", labels);
    expert_tokens =
        &metrics.counter("troupe_expert_pairs_total", "Pairs of token row and expert that were computed", labels);
    refused = &metrics.counter("troupe_expert_refused_dispatches_total",
                               "Dispatches that were answered with an error: of another epoch, or wrong", labels);
    metrics.gauge("troupe_expert_weight_bytes", "Bytes read from the model's files", labels)
        .Set(static_cast<double>(experts->weights().checkpoint.bytes_read()));
  }

  Result<void> assemble(schema::Assemble::Reader plan) {
    if (!experts) return unavailable("the experts have not loaded their weights");
    epoch = plan.getEpoch();
    return {};
  }

  fabric::Message<schema::Combine> answer(const fabric::Message<schema::Dispatch>& message) {
    const auto dispatch = message.read();
    CombineBuilder combine;
    auto out = combine.root();
    out.setFence(dispatch->getFence());
    out.setLayer(dispatch->getLayer());
    if (auto done = compute(dispatch.root(), message.attachments(), combine); !done.ok()) {
      return refusal(dispatch.root(), done.error());
    }
    return std::move(combine).finish();
  }

  Result<void> compute(schema::Dispatch::Reader dispatch, std::span<const fabric::Attachment> attachments,
                       CombineBuilder& combine) {
    const auto start = Clock::now();
    if (!experts) return unavailable("the experts have not loaded their weights");
    const auto fence = dispatch.getFence();
    if (epoch == 0 || fence.getReplica() != replica || fence.getEpoch() != epoch) {
      return cancelled("replica " + std::to_string(fence.getReplica()) + " lives in epoch " + std::to_string(epoch) +
                       ", and this comes from epoch " + std::to_string(fence.getEpoch()));
    }
    const model::ModelConfig& config = experts->config();
    TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 rows,
                            read_matrix(dispatch.getRows(), attachments, 1, experts->options().max_batch_tokens,
                                        config.hidden_size, "a dispatch"));
    // Before the lists are copied.
    if (dispatch.getPairRows().size() > rows.rows * config.num_experts_per_token ||
        dispatch.getPairExperts().size() != dispatch.getPairRows().size() ||
        dispatch.getPairWeights().size() != dispatch.getPairRows().size()) {
      return invalid_argument("a dispatch has " + std::to_string(dispatch.getPairRows().size()) + " pair rows, " +
                                  std::to_string(dispatch.getPairExperts().size()) + " experts and " +
                                  std::to_string(dispatch.getPairWeights().size()) + " weights for " +
                                  std::to_string(rows.rows) + " rows of " +
                                  std::to_string(config.num_experts_per_token) + " experts each",
                              "pairRows");
    }
    pairs.read(dispatch);
    const kernels::MatrixF32 sum = attach_matrix(rows.rows, rows.cols, combine, combine.root().initRows());
    if (auto done = experts->compute(dispatch.getLayer(), rows, pairs.view(), sum); !done.ok()) {
      // What is wrong with a message is its sender's fault; anything else is the device's.
      if (done.error().code != ErrorCode::kInvalidArgument) {
        self->quit(caf::make_error(caf::sec::runtime_error, done.error().message));
      }
      return done;
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    compute_seconds->Increment(seconds);
    dispatch_seconds->Observe(seconds);
    tokens->Increment(static_cast<double>(rows.rows));
    expert_tokens->Increment(static_cast<double>(pairs.rows.size()));
    return {};
  }

  fabric::Message<schema::Combine> refusal(schema::Dispatch::Reader dispatch, const Error& error) {
    if (refused != nullptr) refused->Increment();
    if (error.code != ErrorCode::kCancelled) {
      spdlog::error("{}: layer {} of step {}: {}", actor, dispatch.getLayer(), dispatch.getFence().getStep(),
                    one_line(error.message));
    }
    return fabric::make_message<schema::Combine>([&](schema::Combine::Builder out) {
      out.setFence(dispatch.getFence());
      out.setLayer(dispatch.getLayer());
      out.setFailed(true);
      engine::write_error(error, out.initError());
    });
  }

  fabric::Message<schema::Stats> stats() {
    if (experts) {
      // A device that failed says so at the next dispatch.
      if (const auto levels = experts->memory_levels(); levels.ok()) {
        measure_arenas(*levels, actor, options.node, metrics);
      }
    }
    return stats_of(actor, options.node, options.incarnation, metrics);
  }
};

caf::behavior run_expert(caf::stateful_actor<ExpertState>* self, ExpertOptions options) {
  self->state.options = std::move(options);
  self->set_default_handler(caf::print_and_drop);
  return {
      [self](const fabric::Message<schema::Spawn>& message) {
        const auto order = message.read();
        const auto detail = self->state.load(order.root(), caf::actor_cast<caf::actor>(self->current_sender()));
        return spawned_of(order->getActor(), detail);
      },
      [self](const fabric::Message<schema::Assemble>& message) {
        return outcome_of(self->state.assemble(*message.read()));
      },
      [self](const fabric::Message<schema::Dispatch>& message) { return self->state.answer(message); },
      [self](const fabric::Message<schema::StatsRequest>&) { return self->state.stats(); },
  };
}

}  // namespace

caf::actor spawn_expert(caf::actor_system& system, ExpertOptions options) {
  return system.spawn<caf::detached>(run_expert, std::move(options));
}

}  // namespace troupe
