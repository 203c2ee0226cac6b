#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/sampler.h"
#include "runtime/engine/sampling_parameters.h"
#include "runtime/engine/waiting_order.h"

namespace troupe::engine {

enum class Phase {
  kWaiting,  // holds no KV blocks
  kPrefill,  // holds blocks; tokens that are already known are not all in the KV pages
  kDecode,   // only its newest token is not in the KV pages
};

// One request on its way through the engine. A value; no invariants of its own beyond those named here.
struct Sequence {
  SequenceId id = 0;
  std::uint64_t owner = 0;    // whom its deltas go to
  std::uint64_t request = 0;  // the owner's name for it

  std::vector<std::uint32_t> tokens;  // prompt, then generated
  std::uint32_t prompt_length = 0;    // >= 1
  std::uint32_t max_length = 0;       // prompt and generated together
  SamplingParameters sampling;
  std::string cache_salt;
  std::int32_t priority = 0;  // smaller runs earlier
  Tenant tenant = 0;
  bool speculates = true;  // may be given guesses

  Phase phase = Phase::kWaiting;
  std::uint32_t computed = 0;         // tokens whose keys and values are in the pages, steps in flight included: with
                                      // lookahead one more than are known
  std::uint32_t settled = 0;          // of them, those that no step has to come back for
  std::uint32_t steps_in_flight = 0;  // that it is part of and whose results are not back
  bool draws_one = false;             // the newest of them draws its next token, and no more: it may go on before that
  bool awaits_guesses = false;        // of the draft: takes part in no step until they come, or long enough did not
  bool begun = false;                 // has held KV blocks, now or earlier; its tenant has been charged for its prompt
  bool on_shards = false;             // a step has told them of it since it began
  std::uint32_t lost_steps = 0;       // to members that failed
  bool dropped = false;               // nobody is to hear of it any more; forgotten when its steps are back

  std::uint64_t admitted_ns = 0;
  std::optional<std::uint64_t> deadline_ns;
  std::optional<std::uint64_t> first_step_ns;
  std::uint32_t cached_tokens = 0;  // of the prompt, that its first step found in the pages

  std::vector<RatedToken> prompt_logprobs;  // of positions 1.., as far as they came back and are not yet reported
  bool prompt_logprobs_complete = false;    // no need to ask for them again after preemption

  // Whether `token` ends it where it is the `nth` generated one, counted from 1.
  bool stops_at(std::uint32_t token, std::uint32_t nth) const {
    const std::vector<std::uint32_t>& stops = sampling.stop_tokens;
    return nth > sampling.min_tokens && std::find(stops.begin(), stops.end(), token) != stops.end();
  }

  std::uint32_t generated() const { return length() - prompt_length; }
  std::uint32_t length() const { return static_cast<std::uint32_t>(tokens.size()); }
  std::uint32_t uncomputed() const { return length() - computed; }
  bool in_flight() const { return steps_in_flight > 0; }
};

// Whether `a` goes before `b` when there is not enough for both: by priority, then by arrival.
bool ranks_before(const Sequence& a, const Sequence& b);

// In order of arrival. Nodes are moved between maps, so that pointers to a Sequence live as long as it does.
using SequenceMap = std::map<SequenceId, Sequence>;

// All sequences, and what decides who of them is next. Used by one thread.
struct Sequences {
  // `idle_tenants`: as FairShare's most_idle.
  explicit Sequences(std::uint64_t idle_tenants) : fair_share(idle_tenants) {}

  SequenceMap waiting;  // phase kWaiting
  SequenceMap running;  // every other phase
  WaitingOrder order;   // of `waiting`
  FairShare fair_share;

  // nullptr when there is none.
  Sequence* find(SequenceId id);

  // Who of the waiting is to begin next; nullptr when nobody waits.
  const Sequence* next() const;

  // What runs, in the order of ranks_before().
  std::vector<Sequence*> ranked();

  // A newcomer waits. REQUIRES: its id is new.
  void add(Sequence&& sequence);

  // It is gone.
  void erase(Sequence& sequence);

  // A newcomer begins: its phase becomes kPrefill. REQUIRES: `id` waits.
  Sequence& begin(SequenceId id);

  // Back to waiting, to be computed anew; its blocks are not touched. REQUIRES: `id` runs and is not in flight.
  Sequence& restart(SequenceId id);
};

}  // namespace troupe::engine
