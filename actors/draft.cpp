#include "actors/draft.h"

#include <chrono>
#include <memory>
#include <utility>

#include <caf/all.hpp>

#include "actors/draft_compute.h"
#include "actors/interfaces.h"
#include "actors/outcome.h"
#include "actors/stats.h"
#include "runtime/base/device.h"
#include "runtime/base/log.h"
#include "runtime/base/metrics.h"
#include "runtime/model/kv_pages.h"

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

struct DraftState {
  const char* name = "draft";
  DraftOptions options;
  std::string actor;
  std::unique_ptr<DraftCompute> compute;  // null before Spawn
  Metrics metrics;
  prometheus::Histogram* request_seconds = nullptr;
  prometheus::Counter* guesses = nullptr;
  prometheus::Counter* failed_requests = nullptr;

  Result<std::string> load(schema::Spawn::Reader order) {
    if (!order.isDraft()) return invalid_argument("a draft was asked to be something else");
    const auto model = order.getModel();
    TROUPE_ASSIGN_OR_RETURN(const Device device, parse_device(order.getDraft().getDevice().cStr()));
    TROUPE_ASSIGN_OR_RETURN(const kernels::DType kv_dtype, model::parse_kv_dtype(model.getKvDtype().cStr()));
    const DraftComputeOptions plan = {.model = order.getDraft().getPath().cStr(),
                                      .guesses_for = model.getPath().cStr(),
                                      .device = kernels::compute_device(device),
                                      .num_blocks = model.getNumBlocks(),
                                      .block_size = model.getBlockSize(),
                                      .max_model_len = model.getMaxModelLen(),
                                      .max_batch_tokens = model.getMaxBatchTokens(),
                                      .max_batch_sequences = model.getMaxBatchSequences(),
                                      .max_sequences = kPipelineStages * model.getMaxBatchSequences(),
                                      .kv_dtype = kv_dtype};
    TROUPE_ASSIGN_OR_RETURN(compute, DraftCompute::load(plan, options.limits));
    actor = order.getActor();
    declare_metrics();
    return fmt::format("{:.1f} MB, guesses for {}",
                       static_cast<double>(compute->transformer().checkpoint_bytes_read()) * 1e-6,
                       model.getServedName().cStr());
  }

  void declare_metrics() {
    const MetricLabels labels = {{"actor", actor}, {"node", options.node}};
    request_seconds = &metrics.histogram("troupe_draft_request_seconds", "From a request's arrival to its answer.",
                                         latency_bounds_seconds(), labels);
    guesses = &metrics.counter("troupe_draft_guesses_total", "Tokens guessed.", labels);
    failed_requests =
        &metrics.counter("troupe_draft_failed_requests_total", "Requests that got an empty answer.", labels);
  }

  fabric::Message<schema::DraftReply> guess(schema::DraftRequest::Reader request) {
    fabric::MessageBuilder<schema::DraftReply> reply;
    if (!compute) return std::move(reply).finish();
    const auto start = Clock::now();
    if (const Result<void> done = compute->guess(request, reply.root()); !done.ok()) {
      spdlog::warn("{}: {}", actor, one_line(done.error().message));
      failed_requests->Increment();
    }
    guesses->Increment(reply.root().getTokens().size());
    request_seconds->Observe(std::chrono::duration<double>(Clock::now() - start).count());
    return std::move(reply).finish();
  }

  fabric::Message<schema::Stats> stats() const { return stats_of(actor, options.node, options.incarnation, metrics); }

  // Steps in flight whose sequences all have their place; of a deeper pipeline's some are forgotten.
  static constexpr std::uint32_t kPipelineStages = 16;
};

caf::behavior run_draft(caf::stateful_actor<DraftState>* self, DraftOptions options) {
  self->state.options = std::move(options);
  self->set_default_handler(caf::print_and_drop);
  return {
      [self](const fabric::Message<schema::Spawn>& message) {
        const auto order = message.read();
        const auto detail = self->state.load(order.root());
        return spawned_of(order->getActor(), detail);
      },
      [self](const fabric::Message<schema::DraftRequest>& message) {
        const auto request = message.read();
        return self->state.guess(request.root());
      },
      [self](const fabric::Message<schema::StatsRequest>&) { return self->state.stats(); },
  };
}

}  // namespace

caf::actor spawn_draft(caf::actor_system& system, DraftOptions options) {
  return system.spawn<caf::detached>(run_draft, std::move(options));
}

}  // namespace troupe
