#include "runtime/engine/step_lists.h"

namespace troupe::engine {
namespace {

template <class List>
std::uint64_t sum_of(const List& counts) {
  std::uint64_t sum = 0;
  for (const std::uint32_t count : counts) sum += count;
  return sum;
}

}  // namespace

Error bad_step(schema::Step::Reader step, const std::string& what) {
  return invalid_argument("step " + std::to_string(step.getFence().getStep()) + ": " + what);
}

Result<void> check_sizes(schema::Step::Reader step, const StepLists& lists, std::uint32_t max_sequences,
                         std::uint32_t max_tokens) {
  const auto size = lists.sequences.size();
  if (size == 0 || size > max_sequences) {
    return bad_step(
        step, "has " + std::to_string(size) + " sequences; 1 to " + std::to_string(max_sequences) + " are possible");
  }
  if (lists.token_counts.size() != size || lists.start_positions.size() != size ||
      lists.new_block_counts.size() != size || lists.sample.size() != size ||
      (lists.next_tokens.size() != size && lists.next_tokens.size() != 0) ||
      (lists.guess_counts.size() != size && lists.guess_counts.size() != 0)) {
    return bad_step(step, "its lists with one entry a sequence differ in length");
  }
  const auto tokens = lists.tokens.size();
  if (tokens > max_tokens) {
    return bad_step(
        step, "has " + std::to_string(tokens) + " tokens; at most " + std::to_string(max_tokens) + " are possible");
  }
  if (sum_of(lists.token_counts) != tokens) return bad_step(step, "tokenCounts do not sum up to its tokens");
  if (sum_of(lists.new_block_counts) != lists.new_blocks.size()) {
    return bad_step(step, "newBlockCounts do not sum up to its newBlocks");
  }
  return {};
}

}  // namespace troupe::engine
