#include "runtime/base/limits.h"

namespace troupe {

const std::vector<LimitField>& limit_fields() {
  static const std::vector<LimitField> fields = {
      {"http_connections", &Limits::http_connections, 1, std::uint64_t{1} << 40, false},
      {"http_header_bytes", &Limits::http_header_bytes, 1, std::uint64_t{1} << 40, true},
      {"http_body_bytes", &Limits::http_body_bytes, 1, std::uint64_t{1} << 40, true},
      {"http_idle_timeout_ms", &Limits::http_idle_timeout_ms, 1, 86'400'000, false},
      {"http_write_timeout_ms", &Limits::http_write_timeout_ms, 1, 86'400'000, false},
      {"stream_buffer_bytes", &Limits::stream_buffer_bytes, 1, std::uint64_t{1} << 40, true},
      {"requests_in_flight", &Limits::requests_in_flight, 1, std::uint64_t{1} << 40, false},
      {"prompts_per_request", &Limits::prompts_per_request, 1, std::uint64_t{1} << 40, false},
      {"choices_per_prompt", &Limits::choices_per_prompt, 1, 1 << 16, false},
      {"stop_strings", &Limits::stop_strings, 1, std::uint64_t{1} << 40, false},
      {"stop_string_bytes", &Limits::stop_string_bytes, 1, std::uint64_t{1} << 40, true},
      {"stop_tokens", &Limits::stop_tokens, 1, std::uint64_t{1} << 40, false},
      {"logit_bias_entries", &Limits::logit_bias_entries, 1, std::uint64_t{1} << 40, false},
      {"cache_salt_bytes", &Limits::cache_salt_bytes, 1, std::uint64_t{1} << 40, true},
      {"top_logprobs", &Limits::top_logprobs, 1, 100, false},
      {"json_depth", &Limits::json_depth, 1, 256, false},
      {"queue", &Limits::queue, 1, std::uint64_t{1} << 40, false},
      {"target_ttft_ms", &Limits::target_ttft_ms, 0, 86'400'000, false},
      {"idle_tenants", &Limits::idle_tenants, 0, std::uint64_t{1} << 40, false},
      {"max_batch_sequences", &Limits::max_batch_sequences, 1, 4'096, false},
      {"max_batch_tokens", &Limits::max_batch_tokens, 1, 65'536, false},
      {"decode_stall_percent", &Limits::decode_stall_percent, 0, 1'000'000, false},
      {"max_model_len", &Limits::max_model_len, 0, std::uint64_t{1} << 40, false},
      {"kv_memory", &Limits::kv_memory, 1, std::uint64_t{1} << 40, true},
      {"swap_memory", &Limits::swap_memory, 0, std::uint64_t{1} << 40, true},
      {"block_size", &Limits::block_size, 1, 256, false},
      {"prefix_cache_blocks", &Limits::prefix_cache_blocks, 0, std::uint64_t{1} << 40, false},
      {"step_timeout_ms", &Limits::step_timeout_ms, 1, 86'400'000, false},
      {"away_wait_ms", &Limits::away_wait_ms, 1, 86'400'000, false},
      {"record_queue_bytes", &Limits::record_queue_bytes, 1, std::uint64_t{1} << 40, true},
      {"record_file_bytes", &Limits::record_file_bytes, 1, std::uint64_t{1} << 50, true},
      {"frame_bytes", &Limits::frame_bytes, 1 << 20, std::uint64_t{1} << 40, true},
      {"frame_metadata_bytes", &Limits::frame_metadata_bytes, 1, std::uint64_t{1} << 40, true},
      {"attachments", &Limits::attachments, 1, std::uint64_t{1} << 40, false},
      {"peers", &Limits::peers, 1, std::uint64_t{1} << 40, false},
      {"pending_requests", &Limits::pending_requests, 1, std::uint64_t{1} << 40, false},
      {"credit_bytes", &Limits::credit_bytes, 1 << 20, std::uint64_t{1} << 40, true},
      {"send_queue_bytes", &Limits::send_queue_bytes, 1, std::uint64_t{1} << 40, true},
      {"proxies_per_peer", &Limits::proxies_per_peer, 1, std::uint64_t{1} << 40, false},
      {"heartbeat_interval_ms", &Limits::heartbeat_interval_ms, 1, 86'400'000, false},
      {"heartbeat_timeout_ms", &Limits::heartbeat_timeout_ms, 1, 86'400'000, false},
      {"connect_timeout_ms", &Limits::connect_timeout_ms, 1, 86'400'000, false},
      {"nccl_join_timeout_ms", &Limits::nccl_join_timeout_ms, 1, 86'400'000, false},
      {"handshake_timeout_ms", &Limits::handshake_timeout_ms, 1, 86'400'000, false},
      {"spin_us", &Limits::spin_us, 0, 1'000, false},
      {"model_header_bytes", &Limits::model_header_bytes, 1, std::uint64_t{1} << 40, true},
      {"model_tensors", &Limits::model_tensors, 1, std::uint64_t{1} << 40, false},
      {"model_metadata", &Limits::model_metadata, 1, std::uint64_t{1} << 40, false},
      {"model_shards", &Limits::model_shards, 1, std::uint64_t{1} << 40, false},
      {"json_file_bytes", &Limits::json_file_bytes, 1, std::uint64_t{1} << 40, true},
      {"topology_file_bytes", &Limits::topology_file_bytes, 1, std::uint64_t{1} << 40, true},
      {"tokenizer_entries", &Limits::tokenizer_entries, 1, std::uint64_t{1} << 40, false},
      {"join_timeout_ms", &Limits::join_timeout_ms, 1, 86'400'000, false},
      {"spawn_timeout_ms", &Limits::spawn_timeout_ms, 1, 86'400'000, false},
      {"drain_timeout_ms", &Limits::drain_timeout_ms, 1, 86'400'000, false},
      {"restart_backoff_ms", &Limits::restart_backoff_ms, 1, 86'400'000, false},
      {"restart_backoff_max_ms", &Limits::restart_backoff_max_ms, 1, 86'400'000, false},
      {"bench_requests", &Limits::bench_requests, 1, 100'000'000, false},
      {"bench_in_flight", &Limits::bench_in_flight, 1, 1'000'000, false},
      {"bench_pieces", &Limits::bench_pieces, 1, std::uint64_t{1} << 30, false},
      {"bench_report_bytes", &Limits::bench_report_bytes, 1, std::uint64_t{1} << 40, true},
      {"trace_line_bytes", &Limits::trace_line_bytes, 1, std::uint64_t{1} << 30, true},
      {"trace_requests", &Limits::trace_requests, 1, 100'000'000, false},
      {"trace_blocks", &Limits::trace_blocks, 1, std::uint64_t{1} << 32, false},
  };
  return fields;
}

Result<void> set_limit(Limits& limits, std::string_view name, std::uint64_t value) {
  for (const LimitField& field : limit_fields()) {
    if (field.name != name) continue;
    if (value < field.min || value > field.max) {
      return invalid_argument("limit " + std::string(name) + " is " + std::to_string(value) + ", outside " +
                                  std::to_string(field.min) + ".." + std::to_string(field.max),
                              std::string(name));
    }
    limits.*field.field = value;
    return {};
  }
  return invalid_argument("there is no limit named " + std::string(name), std::string(name));
}

}  // namespace troupe
