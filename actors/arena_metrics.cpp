#include "actors/arena_metrics.h"

namespace troupe {

void measure_arenas(std::span<const model::ArenaLevel> levels, const std::string& actor, const std::string& node,
                    Metrics& metrics) {
  for (const model::ArenaLevel& level : levels) {
    const MetricLabels labels = {{"actor", actor}, {"node", node}, {"arena", std::string(level.arena)}};
    const auto gauge = [&](const char* name, const char* help, std::uint64_t bytes) {
      metrics.gauge(name, help, labels).Set(static_cast<double>(bytes));
    };
    gauge("troupe_shard_arena_bytes", "Bytes of an arena of a shard's memory", level.capacity);
    gauge("troupe_shard_arena_used_bytes", "Of them, those in use", level.used);
    gauge("troupe_shard_arena_peak_bytes", "The most that was in use", level.peak);
    gauge("troupe_shard_arena_largest_free_bytes", "The largest piece of what is free", level.largest_free);
  }
}

}  // namespace troupe
