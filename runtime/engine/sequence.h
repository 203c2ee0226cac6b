#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/sampler.h"
#include "runtime/engine/sampling_parameters.h"

namespace troupe::engine {

// Grows by one an admitted request: a smaller id came earlier.
using SequenceId = std::uint64_t;

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
  bool speculates = true;  // may be given guesses

  Phase phase = Phase::kWaiting;
  std::uint32_t computed = 0;   // tokens whose keys and values are in the pages, in-flight step included
  bool in_flight = false;       // part of a step whose result is not back
  bool awaits_guesses = false;  // of the draft: takes part in no step until they come, or long enough did not
  bool cancelled = false;       // nobody wants it any more; forgotten when its step is back

  std::uint64_t admitted_ns = 0;
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
};

// In order of arrival. Nodes are moved between maps, so that pointers to a Sequence live as long as it does.
using SequenceMap = std::map<SequenceId, Sequence>;

struct Sequences {
  SequenceMap waiting;  // phase kWaiting
  SequenceMap running;  // every other phase

  // nullptr when there is none.
  Sequence* find(SequenceId id);

  // A newcomer begins: its phase becomes kPrefill. REQUIRES: `id` waits.
  Sequence& begin(SequenceId id);

  // Back to waiting, to be computed anew; its blocks are not touched. REQUIRES: `id` runs and is not in flight.
  Sequence& restart(SequenceId id);
};

}  // namespace troupe::engine
