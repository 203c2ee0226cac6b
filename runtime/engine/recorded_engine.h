#pragma once

#include <capnp/common.h>
#include <kj/array.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "runtime/engine/engine.h"
#include "schema/record.capnp.h"

namespace troupe::engine {

// Takes one entry of a record (schema/record.capnp) in stream framing.
using RecordSink = std::function<void(kj::Array<capnp::word>)>;

// FNV-1a of the step's canonical words: equal for equal steps, however they were built.
std::uint64_t checksum(schema::Step::Reader step);

// An Engine that tells what it is asked to do, so that Replay can go through it again. Its functions are the Engine's.
class RecordedEngine {
 public:
  // Without a sink nothing is recorded.
  RecordedEngine(const EngineOptions& options, RecordSink sink, std::uint64_t now_ns);

  Result<void> admit(std::uint64_t owner, schema::Generate::Reader generate, std::uint64_t now_ns);
  void cancel(std::uint64_t owner, std::uint64_t request);
  void cancel_all(std::uint64_t owner);
  bool form_step(schema::Step::Builder step, std::uint64_t now_ns);
  bool form_draft_request(schema::DraftRequest::Builder request, std::uint64_t now_ns);
  void take_guesses(schema::DraftReply::Reader reply, std::uint64_t now_ns);
  void lose_draft();
  void stop_waiting_for_draft();
  std::vector<Delta> apply(schema::StepResult::Reader result, std::uint64_t now_ns);
  std::vector<Delta> expire(std::uint64_t now_ns);
  std::vector<Delta> fail_in_flight(const Error& error);
  std::vector<Delta> fail_waiting(const Error& error, std::uint64_t admitted_before_ns);
  std::vector<Delta> fail_all(const Error& error);
  std::vector<Delta> reset_for_epoch(std::uint32_t replica, std::uint64_t epoch, const Error& error);

  // For what changes nothing.
  const Engine& operator*() const { return engine_; }
  const Engine* operator->() const { return &engine_; }

 private:
  template <class Fill>
  void record(Fill&& fill);

  Engine engine_;
  const RecordSink sink_;
  std::uint64_t now_ns_;  // as it was told last
};

}  // namespace troupe::engine
