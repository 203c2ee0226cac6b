#include "runtime/engine/recorded_engine.h"

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <utility>

#include "runtime/base/fnv1a.h"

namespace troupe::engine {

namespace {

void write_header(const EngineOptions& options, schema::RecordEntry::Header::Builder header) {
  header.setVersion(1);
  header.setNumBlocks(options.num_blocks);
  header.setBlockSize(options.block_size);
  header.setMaxModelLen(options.max_model_len);
  header.setMaxBatchTokens(options.max_batch_tokens);
  header.setMaxBatchSequences(options.max_batch_sequences);
  header.setPipelineStages(options.pipeline_stages);
  header.setMaxGuesses(options.max_guesses);
  header.setUsesDraft(options.uses_draft);
  header.setLookahead(options.lookahead);
  header.setNumSwapBlocks(options.num_swap_blocks);
  const std::vector<LimitField>& fields = limit_fields();
  auto limits = header.initLimits(static_cast<unsigned>(fields.size()));
  for (unsigned i = 0; i < limits.size(); ++i) {
    limits[i].setName(std::string(fields[i].name));
    limits[i].setValue(options.limits.*fields[i].field);
  }
}

}  // namespace

std::uint64_t checksum(schema::Step::Reader step) {
  const kj::Array<capnp::word> words = capnp::canonicalize(std::move(step));
  const auto bytes = words.asChars();
  return fnv1a({bytes.begin(), bytes.size()});
}

template <class Fill>
void RecordedEngine::record(Fill&& fill) {
  if (!sink_) return;
  capnp::MallocMessageBuilder message;
  auto entry = message.initRoot<schema::RecordEntry>();
  entry.setTimeNs(now_ns_);
  std::forward<Fill>(fill)(entry);
  sink_(capnp::messageToFlatArray(message));
}

RecordedEngine::RecordedEngine(const EngineOptions& options, RecordSink sink, std::uint64_t now_ns)
    : engine_(options), sink_(std::move(sink)), now_ns_(now_ns) {
  record([&](schema::RecordEntry::Builder entry) { write_header(options, entry.initHeader()); });
}

Result<void> RecordedEngine::admit(std::uint64_t owner, schema::Generate::Reader generate, std::uint64_t now_ns) {
  now_ns_ = now_ns;
  Result<void> result = engine_.admit(owner, generate, now_ns);
  record([&](schema::RecordEntry::Builder entry) {
    auto admit = entry.initAdmit();
    admit.setOwner(owner);
    admit.setGenerate(generate);
    admit.setRefused(!result.ok());
  });
  return result;
}

void RecordedEngine::cancel(std::uint64_t owner, std::uint64_t request) {
  record([&](schema::RecordEntry::Builder entry) {
    auto cancel = entry.initCancel();
    cancel.setOwner(owner);
    cancel.setRequest(request);
  });
  engine_.cancel(owner, request);
}

void RecordedEngine::cancel_all(std::uint64_t owner) {
  record([&](schema::RecordEntry::Builder entry) { entry.setCancelAll(owner); });
  engine_.cancel_all(owner);
}

bool RecordedEngine::form_step(schema::Step::Builder step, std::uint64_t now_ns) {
  now_ns_ = now_ns;
  if (!engine_.form_step(step, now_ns)) return false;
  record([&](schema::RecordEntry::Builder entry) {
    auto formed = entry.initStep();
    formed.setStep(step.getFence().getStep());
    formed.setChecksum(checksum(step.asReader()));
  });
  return true;
}

bool RecordedEngine::form_draft_request(schema::DraftRequest::Builder request, std::uint64_t now_ns) {
  now_ns_ = now_ns;
  // Also when there is nothing to ask: it counts how often it was not worth it.
  const bool asked = engine_.form_draft_request(request, now_ns);
  record([&](schema::RecordEntry::Builder entry) { entry.setDraftAsked(asked); });
  return asked;
}

void RecordedEngine::take_guesses(schema::DraftReply::Reader reply, std::uint64_t now_ns) {
  now_ns_ = now_ns;
  record([&](schema::RecordEntry::Builder entry) { entry.setGuesses(reply); });
  engine_.take_guesses(reply, now_ns);
}

void RecordedEngine::lose_draft() {
  record([&](schema::RecordEntry::Builder entry) { entry.setDraftLost(); });
  engine_.lose_draft();
}

void RecordedEngine::stop_waiting_for_draft() {
  record([&](schema::RecordEntry::Builder entry) { entry.setDraftLate(); });
  engine_.stop_waiting_for_draft();
}

std::vector<Delta> RecordedEngine::apply(schema::StepResult::Reader result, std::uint64_t now_ns) {
  now_ns_ = now_ns;
  record([&](schema::RecordEntry::Builder entry) { entry.setResult(result); });
  return engine_.apply(result, now_ns);
}

std::vector<Delta> RecordedEngine::expire(std::uint64_t now_ns) {
  now_ns_ = now_ns;
  record([&](schema::RecordEntry::Builder entry) { entry.setExpire(); });
  return engine_.expire(now_ns);
}

std::vector<Delta> RecordedEngine::fail_in_flight(const Error& error) {
  record([&](schema::RecordEntry::Builder entry) { entry.setFailInFlight(); });
  return engine_.fail_in_flight(error);
}

std::vector<Delta> RecordedEngine::fail_waiting(const Error& error, std::uint64_t admitted_before_ns) {
  record([&](schema::RecordEntry::Builder entry) { entry.setFailWaiting(admitted_before_ns); });
  return engine_.fail_waiting(error, admitted_before_ns);
}

std::vector<Delta> RecordedEngine::fail_all(const Error& error) {
  record([&](schema::RecordEntry::Builder entry) { entry.setFailAll(); });
  return engine_.fail_all(error);
}

std::vector<Delta> RecordedEngine::reset_for_epoch(std::uint32_t replica, std::uint64_t epoch, const Error& error) {
  record([&](schema::RecordEntry::Builder entry) {
    auto reset = entry.initEpoch();
    reset.setReplica(replica);
    reset.setEpoch(epoch);
  });
  return engine_.reset_for_epoch(replica, epoch, error);
}

}  // namespace troupe::engine
