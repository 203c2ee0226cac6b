#include "actors/scheduler_metrics.h"

#include "actors/stats.h"

namespace troupe {

SchedulerMetrics::SchedulerMetrics(std::uint32_t replica)
    : replica_(std::to_string(replica)),
      step_seconds_(metrics_.histogram("troupe_scheduler_step_seconds", "From sending a step to its result.",
                                       latency_bounds_seconds())),
      queue_seconds_(metrics_.histogram("troupe_scheduler_queue_seconds", "From a request to its first step.",
                                        latency_bounds_seconds())),
      stale_results_(metrics_.counter("troupe_scheduler_stale_results_total",
                                      "Results dropped because their epoch or step was over.")),
      late_guesses_(metrics_.counter("troupe_scheduler_late_guesses_total",
                                     "Requests to the draft whose answer was not worth waiting for any longer.")) {}

void SchedulerMetrics::write(const engine::Engine& engine, schema::Stats::Builder stats) {
  const engine::EngineCounts counts = engine.counts();
  const auto now = [&](const char* name, const char* help, std::uint64_t value) {
    metrics_.gauge(name, help).Set(static_cast<double>(value));
  };
  const auto total = [&](const char* name, const char* help, std::uint64_t value, const MetricLabels& labels = {}) {
    prometheus::Counter& counter = metrics_.counter(name, help, labels);
    counter.Increment(static_cast<double>(value) - counter.Value());
  };
  now("troupe_scheduler_queue_length", "Requests that wait.", counts.waiting);
  const engine::Backlog backlog = engine.backlog();
  now("troupe_scheduler_queue_tokens", "Tokens of requests that wait.", backlog.tokens);
  now("troupe_scheduler_queue_tokens_per_second", "How fast they are worked off, 0 before it is known.",
      static_cast<std::uint64_t>(backlog.tokens_per_s));
  now("troupe_scheduler_running_sequences", "Sequences that hold KV blocks.", counts.running);
  now("troupe_scheduler_steps_in_flight", "Steps on their way through the stages.", engine.steps_in_flight());
  now("troupe_scheduler_kv_blocks", "KV blocks of a replica.", engine.blocks().num_blocks());
  now("troupe_scheduler_kv_blocks_used", "KV blocks that sequences hold.",
      engine.blocks().num_blocks() - engine.blocks().free_blocks());
  now("troupe_scheduler_kv_blocks_cached", "KV blocks that the prefix cache can find, held by sequences or not.",
      engine.blocks().cache().size());
  total("troupe_scheduler_prefix_cache_queried_tokens_total",
        "Tokens of sequences that the prefix cache was asked for.", counts.prefix_queries);
  total("troupe_scheduler_prefix_cache_hit_tokens_total", "Of them, tokens that were in the KV pages already.",
        counts.prefix_hits);
  total("troupe_scheduler_steps_total", "Steps sent.", counts.steps);
  total("troupe_scheduler_steps_ahead_total", "Of them, those formed before the tokens of the one before were known.",
        counts.steps_ahead);
  total("troupe_scheduler_prompt_tokens_total", "Prompt tokens computed, recomputation included.",
        counts.prompt_tokens);
  total("troupe_scheduler_generated_tokens_total", "Tokens generated.", counts.generated_tokens);
  const engine::SpeculationCounts& guesses = counts.speculation;
  total("troupe_scheduler_guesses_total", "Guessed tokens that were checked.", guesses.proposed);
  total("troupe_scheduler_accepted_guesses_total", "Of them, those that came true.", guesses.accepted);
  total("troupe_scheduler_guessed_runs_total", "Times that a sequence had guesses in a step.", guesses.runs);
  const auto mean = [](std::uint64_t sum, std::uint64_t count) {
    return count == 0 ? 0.0 : static_cast<double>(sum) / static_cast<double>(count);
  };
  metrics_.gauge("troupe_scheduler_guess_acceptance", "Share of the guesses that came true.")
      .Set(mean(guesses.accepted, guesses.proposed));
  metrics_
      .gauge("troupe_scheduler_guess_accepted_length", "Guesses of a sequence in a step that came true, on average.")
      .Set(mean(guesses.accepted, guesses.runs));
  total("troupe_scheduler_preemptions_total",
        "Sequences sent back to the queue for want of KV blocks, or by a more urgent one.", counts.preemptions);
  total("troupe_scheduler_swaps_out_total", "Of them, sequences whose keys and values were kept beside the pages.",
        counts.swaps_out);
  total("troupe_scheduler_swaps_in_total", "Sequences that went on with what was kept.", counts.swaps_in);
  now("troupe_scheduler_swap_blocks", "KV blocks beside the pages.", engine.swap_space().num_blocks());
  now("troupe_scheduler_swap_blocks_used", "Of them, those that hold something.",
      engine.swap_space().num_blocks() - engine.swap_space().free_blocks());
  const char* const requests = "troupe_scheduler_requests_total";
  const char* const requests_help = "Admitted requests that ended.";
  total(requests, requests_help, counts.finished, {{"outcome", "finished"}});
  total(requests, requests_help, counts.failed, {{"outcome", "failed"}});
  total(requests, requests_help, counts.expired, {{"outcome", "expired"}});
  total(requests, requests_help, counts.cancelled, {{"outcome", "cancelled"}});
  MetricFamilies families = metrics_.collect();
  for (prometheus::MetricFamily& family : families) {
    for (prometheus::ClientMetric& metric : family.metric) metric.label.push_back({"replica", replica_});
  }
  write_families(families, stats);
}

}  // namespace troupe
