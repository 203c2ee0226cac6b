#include "runtime/engine/replay.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "runtime/engine/recorded_engine.h"

namespace troupe::engine {

namespace {

constexpr std::size_t kWordBytes = sizeof(capnp::word);
constexpr std::uint32_t kMostSegments = 512;
constexpr std::uint64_t kMostMessageBytes = 64 << 20;  // the default of the limit frame_metadata_bytes
constexpr std::uint32_t kMostGuesses = 1'024;
constexpr std::uint64_t kMostKvTokens = 1 << 26;  // a hostile header asks for no more memory than that

std::uint32_t read_u32(std::span<const std::byte> bytes, std::size_t offset) {
  std::uint32_t value = 0;  // little-endian, as every machine that this runs on
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

bool within(std::uint64_t value, std::uint64_t most) { return value >= 1 && value <= most; }

std::string count_of(std::uint64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

}  // namespace

Error Replay::at_offset(const std::string& what) const {
  return corrupt_data("byte " + std::to_string(offset_) + ": " + what);
}

Result<std::size_t> Replay::message_bytes() const {
  const std::span<const std::byte> rest = file_.subspan(offset_);
  if (rest.size() < kWordBytes) return 0;
  const std::uint64_t segments = std::uint64_t{read_u32(rest, 0)} + 1;
  if (segments > kMostSegments) return at_offset("no record: a message of " + std::to_string(segments) + " segments");
  const std::size_t table = (4 * (segments + 1) + kWordBytes - 1) / kWordBytes * kWordBytes;
  if (rest.size() < table) return 0;
  std::uint64_t bytes = table;
  for (std::uint64_t i = 0; i < segments; ++i) bytes += std::uint64_t{read_u32(rest, 4 * (i + 1))} * kWordBytes;
  if (bytes > kMostMessageBytes) return at_offset("no record: a message of " + std::to_string(bytes) + " bytes");
  return bytes > rest.size() ? 0 : static_cast<std::size_t>(bytes);
}

// False when no whole message is left.
template <class Use>
Result<bool> Replay::with_entry(Use&& use) {
  TROUPE_ASSIGN_OR_RETURN(const std::size_t bytes, message_bytes());
  if (bytes == 0) return false;
  std::vector<capnp::word> words(bytes / kWordBytes);  // aligned, which the file need not be
  std::memcpy(words.data(), file_.data() + offset_, bytes);
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 8 * words.size() + 64;
  Result<void> used;
  const auto thrown = kj::runCatchingExceptions([&] {
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.data(), words.size()), options);
    used = use(reader.getRoot<schema::RecordEntry>());
  });
  KJ_IF_MAYBE (exception, thrown) return at_offset(std::string("no record: ") + exception->getDescription().cStr());
  if (!used.ok()) return std::move(used).error();
  offset_ += bytes;
  return true;
}

Result<std::unique_ptr<Replay>> Replay::open(std::span<const std::byte> file) {
  std::unique_ptr<Replay> replay(new Replay(file));
  TROUPE_ASSIGN_OR_RETURN(const bool whole,
                          replay->with_entry([&](schema::RecordEntry::Reader entry) { return replay->start(entry); }));
  if (!whole) return replay->at_offset("no record: its header is not whole");
  return replay;
}

Result<void> Replay::start(schema::RecordEntry::Reader entry) {
  if (!entry.isHeader()) return at_offset("no record: it does not begin with a header");
  const auto header = entry.getHeader();
  if (header.getVersion() != 1) {
    return unsupported("a record of version " + std::to_string(header.getVersion()) + "; this program reads version 1");
  }
  EngineOptions options{.num_blocks = header.getNumBlocks(),
                        .num_swap_blocks = header.getNumSwapBlocks(),
                        .block_size = header.getBlockSize(),
                        .max_model_len = header.getMaxModelLen(),
                        .max_batch_tokens = header.getMaxBatchTokens(),
                        .max_batch_sequences = header.getMaxBatchSequences(),
                        .pipeline_stages = header.getPipelineStages(),
                        .max_guesses = header.getMaxGuesses(),
                        .uses_draft = header.getUsesDraft(),
                        .lookahead = header.getLookahead()};
  const bool sane =
      within(options.num_blocks, kMostKvTokens) && within(options.block_size, 256) &&
      (std::uint64_t{options.num_blocks} + options.num_swap_blocks) * options.block_size <= kMostKvTokens &&
      within(options.max_model_len, kMostKvTokens) && within(options.max_batch_tokens, 65'536) &&
      within(options.max_batch_sequences, 4'096) && within(options.pipeline_stages, 1'024) &&
      options.max_guesses <= kMostGuesses && (!options.lookahead || options.pipeline_stages == 1);
  if (!sane) return at_offset("the header has values that no engine has");
  for (const auto limit : header.getLimits()) {
    const Result<void> set = set_limit(options.limits, limit.getName().cStr(), limit.getValue());
    if (!set.ok()) return at_offset("the header: " + set.error().message);
  }
  begin_ns_ = now_ns_ = entry.getTimeNs();
  engine_.emplace(options);
  return {};
}

Result<std::optional<ReplayEvent>> Replay::next() {
  if (ended_) return std::optional<ReplayEvent>();
  std::optional<ReplayEvent> event;
  Result<bool> whole = with_entry([&](schema::RecordEntry::Reader entry) -> Result<void> {
    if (entry.getTimeNs() < now_ns_) return at_offset("its time lies before that of the entry before");
    now_ns_ = entry.getTimeNs();
    if (entry.isHeader()) return at_offset("a second header");
    event = apply(entry);
    return {};
  });
  ended_ = !whole.ok() || !*whole || !event->same;
  if (!whole.ok()) return std::move(whole).error();
  return event;
}

ReplayEvent Replay::apply(schema::RecordEntry::Reader entry) {
  using Entry = schema::RecordEntry;
  const Error failed = unavailable("as recorded");
  ReplayEvent event{.offset = offset_, .time_ns = now_ns_};
  switch (entry.which()) {
    case Entry::ADMIT: {
      const auto admit = entry.getAdmit();
      const auto generate = admit.getGenerate();
      const Result<void> result = engine_->admit(admit.getOwner(), generate, now_ns_);
      event.kind = "admit";
      event.same = result.ok() != admit.getRefused();
      event.text = "request " + std::to_string(generate.getRequest()) + " of gateway " +
                   std::to_string(admit.getOwner()) + ": " + count_of(generate.getTokens().size(), "token") +
                   ", priority " + std::to_string(generate.getPriority()) +
                   (result.ok() ? "" : ": refused: " + result.error().message);
      return event;
    }
    case Entry::CANCEL:
      event.kind = "cancel";
      event.text = "request " + std::to_string(entry.getCancel().getRequest()) + " of gateway " +
                   std::to_string(entry.getCancel().getOwner());
      engine_->cancel(entry.getCancel().getOwner(), entry.getCancel().getRequest());
      return event;
    case Entry::CANCEL_ALL:
      event.kind = "cancelAll";
      event.text = "gateway " + std::to_string(entry.getCancelAll()) + " is gone";
      engine_->cancel_all(entry.getCancelAll());
      return event;
    case Entry::STEP:
      event.kind = "step";
      event.is_step = true;
      replay_step(entry.getStep(), now_ns_, event);
      return event;
    case Entry::RESULT: {
      const auto result = entry.getResult();
      const std::size_t deltas = engine_->apply(result, now_ns_).size();
      event.kind = "result";
      event.text = "step " + std::to_string(result.getFence().getStep()) +
                   (result.getFailed() ? " failed" : ": " + count_of(deltas, "answer") + " moved");
      return event;
    }
    case Entry::EXPIRE:
      event.kind = "expire";
      event.text = count_of(engine_->expire(now_ns_).size(), "request") + " out of time";
      return event;
    case Entry::FAIL_IN_FLIGHT:
      event.kind = "failInFlight";
      event.text = count_of(engine_->fail_in_flight(failed).size(), "request");
      return event;
    case Entry::FAIL_WAITING:
      event.kind = "failWaiting";
      event.text = count_of(engine_->fail_waiting(failed, entry.getFailWaiting()).size(), "request");
      return event;
    case Entry::FAIL_ALL:
      event.kind = "failAll";
      event.text = count_of(engine_->fail_all(failed).size(), "request");
      return event;
    case Entry::EPOCH: {
      const auto epoch = entry.getEpoch();
      event.kind = "epoch";
      event.text = std::to_string(epoch.getEpoch()) + " of replica " + std::to_string(epoch.getReplica()) + ": " +
                   count_of(engine_->reset_for_epoch(epoch.getReplica(), epoch.getEpoch(), failed).size(), "request") +
                   " in flight failed";
      return event;
    }
    case Entry::DRAFT_ASKED: {
      capnp::MallocMessageBuilder message;
      event.kind = "draftAsked";
      const bool asked = engine_->form_draft_request(message.initRoot<schema::DraftRequest>(), now_ns_);
      event.same = asked == entry.getDraftAsked();
      event.text = asked ? "for guesses" : "nothing that is worth it";
      return event;
    }
    case Entry::GUESSES:
      event.kind = "guesses";
      event.text = count_of(entry.getGuesses().getTokens().size(), "token");
      engine_->take_guesses(entry.getGuesses(), now_ns_);
      return event;
    case Entry::DRAFT_LOST:
      event.kind = "draftLost";
      event.text = "no guesses of it any more";
      engine_->lose_draft();
      return event;
    case Entry::DRAFT_LATE:
      event.kind = "draftLate";
      event.text = "nobody waits for its guesses any more";
      engine_->stop_waiting_for_draft();
      return event;
    case Entry::HEADER: break;
  }
  event.kind = "unknown";
  event.text = "an entry of a later version";
  event.same = false;
  return event;
}

void Replay::replay_step(schema::RecordEntry::Step::Reader formed, std::uint64_t now_ns, ReplayEvent& event) {
  capnp::MallocMessageBuilder message;
  auto step = message.initRoot<schema::Step>();
  if (!engine_->form_step(step, now_ns)) {
    event.same = false;
    event.text = "step " + std::to_string(formed.getStep()) + " was sent then; now nobody can run";
    return;
  }
  event.same = step.getFence().getStep() == formed.getStep() && checksum(step.asReader()) == formed.getChecksum();
  event.text = std::to_string(step.getFence().getStep()) + ": " + count_of(step.getSequences().size(), "sequence") +
               ", " + count_of(step.getTokens().size(), "token") + ", " + std::to_string(step.getStarts().size()) +
               " begin, " + std::to_string(step.getReleased().size()) + " released" +
               (event.same ? "" : "; it was another step then");
}

}  // namespace troupe::engine
