#include "cluster/command/local_replica.h"

#include <capnp/message.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

#include "actors/device_group.h"
#include "runtime/collective/in_process.h"
#include "runtime/model/config.h"
#include "schema/cluster.capnp.h"

namespace troupe::cluster {
namespace {

constexpr std::uint64_t kOwner = 1;
constexpr std::uint64_t kEpoch = 1;

std::uint64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

engine::EngineOptions engine_options(const LocalReplicaOptions& options) {
  const auto block_size = static_cast<std::uint32_t>(options.limits.block_size);
  const std::uint32_t blocks_a_sequence = (options.max_length + block_size - 1) / block_size;
  Limits limits = options.limits;
  limits.decode_stall_percent = 0;  // what is measured is not to be held back by what was measured before
  limits.target_ttft_ms = 0;
  return {.num_blocks = options.batch * blocks_a_sequence,
          .block_size = block_size,
          .max_model_len = options.max_length,
          .max_batch_tokens = std::max(static_cast<std::uint32_t>(options.limits.max_batch_tokens), options.batch),
          .max_batch_sequences = options.batch,
          .max_guesses = options.max_guesses,
          .uses_draft = !options.draft.empty(),
          .limits = limits};
}

// The place in a group for tensors in the memory of this rank, as in a cluster: by NCCL where each rank has a GPU.
Result<std::unique_ptr<collective::Communicator>> suited(std::unique_ptr<collective::Communicator> host,
                                                         const LocalReplicaOptions& options,
                                                         kernels::DeviceMemory& memory) {
  const bool on_gpus = std::ranges::all_of(options.devices, [](const auto& device) { return device.gpu.has_value(); });
  capnp::MallocMessageBuilder message;
  auto spec = message.initRoot<schema::ShardSpec>();
  spec.setExchange(on_gpus ? schema::ShardSpec::Exchange::NCCL : schema::ShardSpec::Exchange::HOST);
  return join_device_group(std::move(host), spec, memory, options.limits);
}

}  // namespace

Result<std::unique_ptr<LocalReplica>> LocalReplica::load(const LocalReplicaOptions& options) {
  TROUPE_ASSIGN_OR_RETURN(const model::ModelConfig config, model::load_config(options.model, options.limits));
  if (options.max_length > config.max_position_embeddings) {
    return invalid_argument("prompt and answer need " + std::to_string(options.max_length) +
                            " positions; the model has " + std::to_string(config.max_position_embeddings) +
                            " (max_position_embeddings); make them shorter");
  }
  const engine::EngineOptions engine_options = cluster::engine_options(options);
  const std::size_t ranks = options.devices.size();
  std::unique_ptr<LocalReplica> replica(new LocalReplica(engine_options, ranks));
  auto group = collective::make_in_process_group(static_cast<std::uint32_t>(ranks));
  TROUPE_RETURN_IF_ERROR(replica->on_all_ranks([&](std::size_t rank) -> Result<void> {
    TROUPE_ASSIGN_OR_RETURN(replica->ranks_[rank].compute,
                            ShardCompute::load({.model = options.model,
                                                .last_layer = config.num_layers,
                                                .rank = static_cast<std::uint32_t>(rank),
                                                .ranks = static_cast<std::uint32_t>(ranks),
                                                .device = options.devices[rank],
                                                .num_blocks = engine_options.num_blocks,
                                                .block_size = engine_options.block_size,
                                                .max_model_len = engine_options.max_model_len,
                                                .max_batch_tokens = engine_options.max_batch_tokens,
                                                .max_batch_sequences = engine_options.max_batch_sequences,
                                                .kv_dtype = options.kv_dtype,
                                                .packed_cache = options.packed_cache},
                                               {}, options.limits));
    ShardCompute& compute = *replica->ranks_[rank].compute;
    TROUPE_ASSIGN_OR_RETURN(auto place, suited(std::move(group[rank]), options, compute.memory()));
    compute.join(std::move(place));
    return {};
  }));
  if (options.draft.empty() || options.max_guesses == 0) return replica;
  TROUPE_ASSIGN_OR_RETURN(replica->draft_, DraftCompute::load({.model = options.draft,
                                                               .guesses_for = options.model,
                                                               .device = options.devices.front(),
                                                               .num_blocks = engine_options.num_blocks,
                                                               .block_size = engine_options.block_size,
                                                               .max_model_len = engine_options.max_model_len,
                                                               .max_batch_tokens = engine_options.max_batch_tokens,
                                                               .max_batch_sequences = options.batch,
                                                               .max_sequences = options.batch,
                                                               .kv_dtype = options.kv_dtype},
                                                              options.limits));
  return replica;
}

LocalReplica::LocalReplica(const engine::EngineOptions& options, std::size_t ranks) : engine_(options), ranks_(ranks) {
  // Of a fresh engine: it fails nobody.
  static_cast<void>(engine_.reset_for_epoch(0, kEpoch, {}));
  for (std::size_t rank = 1; rank < ranks; ++rank) ranks_[rank].thread = std::jthread([this, rank] { serve(rank); });
}

LocalReplica::~LocalReplica() {
  work_ = nullptr;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (Rank& rank : ranks_) {
    if (rank.thread.joinable()) rank.thread.join();
  }
}

void LocalReplica::wait_for_packed_cache() const {
  for (const Rank& rank : ranks_) {
    if (const auto& writer = rank.compute->transformer().weights().writer) writer->wait();
  }
}

Result<void> LocalReplica::admit(std::uint64_t request, const std::vector<std::uint32_t>& prompt,
                                 std::uint32_t max_tokens) {
  capnp::MallocMessageBuilder message;
  auto generate = message.initRoot<schema::Generate>();
  generate.setRequest(request);
  auto tokens = generate.initTokens(static_cast<unsigned>(prompt.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, prompt[i]);
  generate.setMaxTokens(max_tokens);
  generate.initSampling().setTemperature(0);
  return engine_.admit(kOwner, generate.asReader(), now_ns());
}

Result<void> LocalReplica::ask_draft() {
  capnp::MallocMessageBuilder message, answer;
  auto request = message.initRoot<schema::DraftRequest>();
  if (!engine_.form_draft_request(request, now_ns())) return {};
  auto reply = answer.initRoot<schema::DraftReply>();
  TROUPE_RETURN_IF_ERROR(draft_->guess(request.asReader(), reply));
  engine_.take_guesses(reply.asReader(), now_ns());
  return {};
}

Result<std::vector<engine::Delta>> LocalReplica::step() {
  if (draft_) TROUPE_RETURN_IF_ERROR(ask_draft());
  capnp::MallocMessageBuilder message;
  auto step = message.initRoot<schema::Step>();
  [[maybe_unused]] const bool formed = engine_.form_step(step, now_ns());
  assert(formed);
  TROUPE_RETURN_IF_ERROR(on_all_ranks([&](std::size_t rank) -> Result<void> {
    ShardCompute& compute = *ranks_[rank].compute;
    Result<void> done = compute.begin_step(step.asReader());
    if (done.ok()) {
      if (auto hidden = compute.launch({}); !hidden.ok()) done = hidden.error();
    }
    if (done.ok()) {
      done = compute.collect(step.getFence().getStep(), compute.is_async() ? compute.wait() : Result<void>());
    }
    // Whoever waits for this rank would wait for ever.
    if (!done.ok()) compute.leave(done.error().message);
    return done;
  }));
  capnp::MallocMessageBuilder answer;
  auto result = answer.initRoot<schema::StepResult>();
  result.setFence(step.getFence().asReader());
  TROUPE_RETURN_IF_ERROR(ranks_[0].compute->write_result(step.getFence().getStep(), result));
  return engine_.apply(result.asReader(), now_ns());
}

void LocalReplica::cancel_all() { engine_.cancel_all(kOwner); }

Result<void> LocalReplica::on_all_ranks(const Work& work) {
  work_ = &work;
  unfinished_.store(static_cast<std::uint32_t>(ranks_.size() - 1), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  ranks_[0].outcome = work(0);
  for (std::uint32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) unfinished_.wait(left);
  for (const Rank& rank : ranks_) TROUPE_RETURN_IF_ERROR(Result<void>(rank.outcome));
  return {};
}

void LocalReplica::serve(std::size_t rank) {
  for (std::uint32_t seen = 0;; ++seen) {
    round_.wait(seen, std::memory_order_acquire);
    if (work_ == nullptr) return;
    ranks_[rank].outcome = (*work_)(rank);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
  }
}

}  // namespace troupe::cluster
