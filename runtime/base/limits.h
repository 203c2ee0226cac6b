#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace troupe {

// Every limit of the system with its default. Exceeding one is an answer that names it (429, an error), never
// growth. `limits:` in the topology file overrides them by these names.
struct Limits {
  // Gateway: what one client and all clients together may ask for.
  std::uint64_t http_connections = 8192;
  std::uint64_t http_header_bytes = 16 << 10;
  std::uint64_t http_body_bytes = 8 << 20;
  std::uint64_t http_idle_timeout_ms = 75'000;   // between requests, and for a request to arrive whole
  std::uint64_t http_write_timeout_ms = 30'000;  // a client that reads nothing for so long is cut off
  std::uint64_t stream_buffer_bytes = 1 << 20;   // unsent bytes of one stream
  std::uint64_t requests_in_flight = 4096;       // of one gateway
  std::uint64_t prompts_per_request = 256;       // list of prompts of one completion request
  std::uint64_t choices_per_prompt = 128;        // `n`
  std::uint64_t stop_strings = 16;               // of one request
  std::uint64_t stop_string_bytes = 256;
  std::uint64_t stop_tokens = 256;
  std::uint64_t logit_bias_entries = 1024;
  std::uint64_t cache_salt_bytes = 256;
  std::uint64_t top_logprobs = 20;
  std::uint64_t json_depth = 32;

  // Scheduler.
  std::uint64_t queue = 1024;                // waiting requests
  std::uint64_t target_ttft_ms = 60'000;     // what waits may take so long until its last prompt begins; 0 = no bound
  std::uint64_t idle_tenants = 4096;         // API keys whose share is remembered while they ask for nothing
  std::uint64_t max_batch_sequences = 64;    // sequences of one step
  std::uint64_t max_batch_tokens = 512;      // tokens of one step; longer prompts go in pieces
  std::uint64_t decode_stall_percent = 100;  // that prompts may lengthen a step of running answers; 0 = no bound
  std::uint64_t max_model_len = 0;           // prompt and answer together; 0 = what the model says
  std::uint64_t kv_memory = 256 << 20;       // bytes of KV pages of one shard
  std::uint64_t swap_memory = 256 << 20;     // beside them, for sequences that had to make room; taken when needed
  std::uint64_t block_size = 16;             // tokens of a KV block
  std::uint64_t prefix_cache_blocks = 1 << 30;  // unused ones, kept for prompts that begin alike; 0 = off
  std::uint64_t step_timeout_ms = 60'000;       // a step that takes longer has failed
  std::uint64_t away_wait_ms = 60'000;          // requests wait so long for a lost member to come back
  std::uint64_t record_queue_bytes = 64 << 20;  // of a record (troupe up --record) that wait for the disk
  std::uint64_t record_file_bytes = 4ULL << 30;

  // Fabric.
  std::uint64_t frame_bytes = 1 << 30;            // one message with its attachments
  std::uint64_t frame_metadata_bytes = 64 << 20;  // its Cap'n Proto part
  std::uint64_t attachments = 64;                 // of one message
  std::uint64_t peers = 256;
  std::uint64_t pending_requests = 1 << 20;    // of one peer
  std::uint64_t credit_bytes = 64 << 20;       // unreleased bytes that one peer may have sent us
  std::uint64_t send_queue_bytes = 256 << 20;  // waiting for credit; beyond it requests are refused
  std::uint64_t proxies_per_peer = 1 << 16;
  std::uint64_t heartbeat_interval_ms = 500;
  std::uint64_t heartbeat_timeout_ms = 3'000;  // silence after which a peer is dead
  std::uint64_t connect_timeout_ms = 5'000;
  std::uint64_t handshake_timeout_ms = 3'000;
  std::uint64_t nccl_join_timeout_ms = 30'000;  // for NCCL to connect the ranks of a stage; then they do without it
  std::uint64_t spin_us = 0;                    // busy-poll so long before sleeping; 0 when cores are scarce

  // Model files.
  std::uint64_t model_header_bytes = 100 << 20;  // of one safetensors or GGUF file
  std::uint64_t model_tensors = 1 << 20;
  std::uint64_t model_metadata = 1 << 16;    // values of one GGUF file; an array is one
  std::uint64_t model_shards = 4096;         // files of one model
  std::uint64_t json_file_bytes = 64 << 20;  // config.json, tokenizer.json
  std::uint64_t topology_file_bytes = 1 << 20;
  std::uint64_t tokenizer_entries = 1 << 21;

  // Cluster.
  std::uint64_t join_timeout_ms = 30'000;    // a process started until it reports
  std::uint64_t spawn_timeout_ms = 600'000;  // loading weights included
  std::uint64_t drain_timeout_ms = 10'000;
  std::uint64_t restart_backoff_ms = 200;  // doubled with each failure in a row
  std::uint64_t restart_backoff_max_ms = 10'000;

  // Load generator.
  std::uint64_t bench_requests = 1'000'000;     // of one run
  std::uint64_t bench_in_flight = 16'384;       // at a time
  std::uint64_t bench_pieces = 1 << 20;         // streamed pieces of one answer
  std::uint64_t bench_report_bytes = 64 << 20;  // a report that is read for comparison
  std::uint64_t trace_line_bytes = 1 << 20;
  std::uint64_t trace_requests = 1'000'000;
  std::uint64_t trace_blocks = 16 << 20;  // hash_ids of all requests
};

// One overridable limit: its name as in the topology file, and the range that makes sense.
struct LimitField {
  std::string_view name;
  std::uint64_t Limits::*field;
  std::uint64_t min;
  std::uint64_t max;
  bool is_bytes;  // accepts 2GiB, 64MiB, ... in the topology file
};

// All of them, in declaration order.
const std::vector<LimitField>& limit_fields();

// Sets a limit by name. Errors: unknown name, value outside its range (param = name).
Result<void> set_limit(Limits& limits, std::string_view name, std::uint64_t value);

}  // namespace troupe
