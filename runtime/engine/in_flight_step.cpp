#include "runtime/engine/in_flight_step.h"

#include <algorithm>
#include <string>

namespace troupe::engine {

unsigned run_length(capnp::List<std::uint32_t>::Reader token_counts, unsigned index) {
  return token_counts.size() == 0 ? 1 : token_counts[index];
}

Error InFlightStep::mismatch(const char* what) const {
  return internal_error("the result of step " + std::to_string(step) + " does not match it: " + what);
}

Result<void> InFlightStep::check(schema::StepResult::Reader result) const {
  const auto sequences = result.getSequences();
  const auto counts = result.getTokenCounts();
  const auto tokens = result.getTokens();
  if (counts.size() != 0 && counts.size() != sequences.size()) return mismatch("tokenCounts");
  if (result.getLogprobs().size() != tokens.size()) return mismatch("logprobs");
  unsigned sampled = 0, next_token = 0;
  for (const InFlightItem& item : items) {
    if (!item.sample) continue;
    if (sampled == sequences.size() || sequences[sampled] != item.sequence) return mismatch("sequences");
    const unsigned count = run_length(counts, sampled++);
    if (count == 0 || count > item.guesses.size() + 1 || count > tokens.size() - next_token) {
      return mismatch("tokenCounts");
    }
    if (!std::equal(item.guesses.begin(), item.guesses.begin() + (count - 1), tokens.begin() + next_token)) {
      return mismatch("its tokens are not the guesses that came true");
    }
    next_token += count;
  }
  if (sampled != sequences.size()) return mismatch("sequences");
  if (next_token != tokens.size()) return mismatch("tokens");
  return {};
}

}  // namespace troupe::engine
