#include "runtime/engine/step_writer.h"

#include <algorithm>
#include <vector>

namespace troupe::engine {

void write_step(const Batch& batch, const BlockManager& blocks, std::span<const SequenceId> released,
                schema::Step::Builder step) {
  const auto size = static_cast<unsigned>(batch.items.size());
  auto sequences = step.initSequences(size);
  auto token_counts = step.initTokenCounts(size);
  auto start_positions = step.initStartPositions(size);
  auto new_block_counts = step.initNewBlockCounts(size);
  auto sample = step.initSample(size);
  const bool rates = std::any_of(batch.items.begin(), batch.items.end(),
                                 [](const BatchItem& item) { return !item.sequence->prompt_logprobs_complete; });
  if (rates) step.initNextTokens(size);
  const bool guesses =
      std::any_of(batch.items.begin(), batch.items.end(), [](const BatchItem& item) { return !item.guesses.empty(); });
  if (guesses) step.initGuessCounts(size);
  unsigned tokens_size = 0, new_blocks_size = 0, starts_size = 0;
  for (unsigned i = 0; i < size; ++i) {
    const BatchItem& item = batch.items[i];
    const Sequence& sequence = *item.sequence;
    const std::uint32_t end = sequence.computed + item.count;
    const auto new_blocks = static_cast<std::uint32_t>(blocks.table(sequence.id).size()) - item.first_new_block;
    sequences.set(i, sequence.id);
    const auto guess_count = static_cast<std::uint32_t>(item.guesses.size());
    token_counts.set(i, item.count + guess_count);
    if (guesses) step.getGuessCounts().set(i, guess_count);
    start_positions.set(i, sequence.computed);
    new_block_counts.set(i, new_blocks);
    sample.set(i, item.sample);
    if (rates) step.getNextTokens().set(i, end < sequence.prompt_length ? sequence.tokens[end] : 0);
    tokens_size += item.count + guess_count;
    new_blocks_size += new_blocks;
    starts_size += item.starts ? 1 : 0;
  }

  auto tokens = step.initTokens(tokens_size);
  auto new_blocks = step.initNewBlocks(new_blocks_size);
  auto starts = step.initStarts(starts_size);
  unsigned token_index = 0, block_index = 0, start_index = 0;
  for (const BatchItem& item : batch.items) {
    const Sequence& sequence = *item.sequence;
    for (std::uint32_t i = 0; i < item.count; ++i) {
      tokens.set(token_index++, item.ahead ? schema::SAMPLED_TOKEN : sequence.tokens[sequence.computed + i]);
    }
    for (const std::uint32_t guess : item.guesses) tokens.set(token_index++, guess);
    for (const std::uint32_t block : blocks.table(sequence.id).subspan(item.first_new_block)) {
      new_blocks.set(block_index++, block);
    }
    if (!item.starts) continue;
    auto start = starts[start_index++];
    start.setSequence(sequence.id);
    start.setPromptLength(sequence.prompt_length);
    start.setCachedTokens({sequence.tokens.data(), sequence.computed});
    write_sampling(sequence.sampling, start.initSampling());
    if (sequence.prompt_logprobs_complete) start.getSampling().setPromptLogprobs(false);
    if (sequence.sampling.min_tokens > 0) {
      start.setMinTokens(sequence.sampling.min_tokens);
      const std::vector<std::uint32_t>& stops = sequence.sampling.stop_tokens;
      auto list = start.initStopTokens(static_cast<unsigned>(stops.size()));
      for (unsigned i = 0; i < stops.size(); ++i) list.set(i, stops[i]);
    }
  }

  auto copies = step.initCopies(static_cast<unsigned>(batch.copies.size()));
  for (unsigned i = 0; i < batch.copies.size(); ++i) {
    copies[i].setFrom(batch.copies[i].from);
    copies[i].setTo(batch.copies[i].to);
  }
  auto to_forget = step.initReleased(static_cast<unsigned>(released.size()));
  for (unsigned i = 0; i < released.size(); ++i) to_forget.set(i, released[i]);
}

}  // namespace troupe::engine
