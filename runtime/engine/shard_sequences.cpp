#include "runtime/engine/shard_sequences.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <string>
#include <utility>

#include "runtime/engine/delta.h"

namespace troupe::engine {

namespace {

Error bad_step(schema::Step::Reader step, const std::string& what) {
  return invalid_argument("step " + std::to_string(step.getFence().getStep()) + ": " + what);
}

std::string name_of(std::uint64_t sequence) { return "sequence " + std::to_string(sequence); }

template <class List>
std::uint64_t sum_of(const List& counts) {
  std::uint64_t sum = 0;
  for (const std::uint32_t count : counts) sum += count;
  return sum;
}

}  // namespace

// The lists of a step. Each is taken out of the message once: a reader counts what is asked of it, and takes somebody
// who asks for a long list with every entry of it for an attacker.
struct ShardSequences::Lists {
  explicit Lists(schema::Step::Reader step)
      : sequences(step.getSequences()),
        token_counts(step.getTokenCounts()),
        start_positions(step.getStartPositions()),
        new_block_counts(step.getNewBlockCounts()),
        sample(step.getSample()),
        tokens(step.getTokens()),
        new_blocks(step.getNewBlocks()),
        next_tokens(step.getNextTokens()),
        guess_counts(step.getGuessCounts()) {}

  capnp::List<std::uint64_t>::Reader sequences;
  capnp::List<std::uint32_t>::Reader token_counts, start_positions, new_block_counts;
  capnp::List<bool>::Reader sample;
  capnp::List<std::uint32_t>::Reader tokens, new_blocks, next_tokens, guess_counts;
};

ShardSequences::ShardSequences(const ShardSequencesOptions& options, const Limits& limits)
    : options_(options), limits_(limits) {
  active_.reserve(capacity());
  spare_.reserve(capacity());
}

Result<void> ShardSequences::begin_step(schema::Step::Reader step) {
  ++steps_;
  batch_.clear();
  flat_.tokens.clear();
  flat_.positions.clear();
  flat_.slots.clear();
  flat_.row_starts.assign(1, 0);
  flat_.context_lengths.clear();
  flat_.block_tables.clear();
  flat_.block_table_starts.assign(1, 0);
  flat_.logits_rows.clear();
  flat_.copies.clear();
  tasks_.clear();
  rows_done_ = 0;

  Result<void> done = apply(step);
  if (!done.ok()) {
    batch_.clear();
    flat_.logits_rows.clear();
    tasks_.clear();
  }
  return done;
}

Result<void> ShardSequences::apply(schema::Step::Reader step) {
  const Lists lists(step);
  TROUPE_RETURN_IF_ERROR(check_sizes(step, lists));
  TROUPE_RETURN_IF_ERROR(take_copies(step));
  for (const std::uint64_t sequence : step.getReleased()) release(sequence);
  for (const auto sequence : step.getStarts()) {
    if (Result<void> started = start(sequence); !started.ok()) return bad_step(step, started.error().message);
  }

  unsigned first_token = 0, first_block = 0;
  for (unsigned i = 0; i < lists.sequences.size(); ++i) {
    const std::string_view problem = append(lists, i, first_token, first_block);
    if (!problem.empty()) return bad_step(step, name_of(lists.sequences[i]) + " " + std::string(problem));
    first_token += lists.token_counts[i];
    first_block += lists.new_block_counts[i];
  }
  return {};
}

Result<void> ShardSequences::check_sizes(schema::Step::Reader step, const Lists& lists) const {
  const auto size = lists.sequences.size();
  if (size == 0 || size > options_.max_batch_sequences) {
    return bad_step(step, "has " + std::to_string(size) + " sequences; 1 to " +
                              std::to_string(options_.max_batch_sequences) + " are possible");
  }
  if (lists.token_counts.size() != size || lists.start_positions.size() != size ||
      lists.new_block_counts.size() != size || lists.sample.size() != size ||
      (lists.next_tokens.size() != size && lists.next_tokens.size() != 0) ||
      (lists.guess_counts.size() != size && lists.guess_counts.size() != 0)) {
    return bad_step(step, "its lists with one entry a sequence differ in length");
  }
  const auto tokens = lists.tokens.size();
  if (tokens > options_.max_batch_tokens) {
    return bad_step(step, "has " + std::to_string(tokens) + " tokens; at most " +
                              std::to_string(options_.max_batch_tokens) + " are possible");
  }
  if (sum_of(lists.token_counts) != tokens) return bad_step(step, "tokenCounts do not sum up to its tokens");
  if (sum_of(lists.new_block_counts) != lists.new_blocks.size()) {
    return bad_step(step, "newBlockCounts do not sum up to its newBlocks");
  }
  return {};
}

Result<void> ShardSequences::take_copies(schema::Step::Reader step) {
  const auto copies = step.getCopies();
  const std::uint64_t blocks = std::uint64_t{options_.num_blocks} + options_.num_swap_blocks;
  if (copies.size() > blocks) {
    return bad_step(
        step, "has " + std::to_string(copies.size()) + " copies; there are " + std::to_string(blocks) + " blocks");
  }
  for (const auto copy : copies) {
    if (copy.getFrom() >= blocks || copy.getTo() >= blocks || copy.getFrom() == copy.getTo()) {
      flat_.copies.clear();
      return bad_step(step, "copies block " + std::to_string(copy.getFrom()) + " to " + std::to_string(copy.getTo()) +
                                "; this shard has " + std::to_string(blocks));
    }
    flat_.copies.push_back({copy.getFrom(), copy.getTo()});
  }
  return {};
}

Result<void> ShardSequences::start(schema::SequenceStart::Reader start) {
  const std::uint64_t sequence = start.getSequence();
  if (start.getPromptLength() == 0 || start.getPromptLength() > options_.max_model_len) {
    return invalid_argument(name_of(sequence) + " has a prompt of " + std::to_string(start.getPromptLength()) +
                            " tokens; 1 to " + std::to_string(options_.max_model_len) + " are possible");
  }
  const auto stops = start.getStopTokens();
  if (stops.size() > limits_.stop_tokens) {
    return invalid_argument(name_of(sequence) + " has " + std::to_string(stops.size()) +
                            " stop tokens (limit stop_tokens)");
  }
  const auto cached = start.getCachedTokens();
  if (cached.size() >= options_.max_model_len) {
    return invalid_argument(name_of(sequence) + " has " + std::to_string(cached.size()) +
                            " cached tokens; max_model_len is " + std::to_string(options_.max_model_len));
  }
  for (const std::uint32_t token : cached) {
    if (token >= options_.vocab_size) {
      return invalid_argument(name_of(sequence) + " has a cached token beyond the vocabulary");
    }
  }
  release(sequence);
  if (active_.size() >= capacity()) {
    return resource_exhausted("more than " + std::to_string(capacity()) + " sequences at a time");
  }
  std::unique_ptr<Entry> entry;
  if (spare_.empty()) {
    entry = std::make_unique<Entry>();
  } else {
    entry = std::move(spare_.back());
    spare_.pop_back();
  }
  entry->sequence = sequence;
  entry->prompt_length = start.getPromptLength();
  entry->guesses = 0;
  entry->tokens.clear();
  for (const std::uint32_t token : cached) entry->tokens.push_back(token);
  entry->block_table.clear();
  entry->last_step = 0;
  entry->sampling.stop_tokens.clear();
  for (const std::uint32_t token : stops) entry->sampling.stop_tokens.push_back(token);
  entry->sampling.min_tokens = start.getMinTokens();
  if (Result<void> read = read_sampling(start.getSampling(), limits_, entry->sampling); !read.ok()) {
    spare_.push_back(std::move(entry));
    return invalid_argument(name_of(sequence) + ": " + read.error().message);
  }
  active_.insert(lower_bound(sequence), std::move(entry));
  return {};
}

// What is wrong with entry `index` of the step, or nothing. Text without numbers: nothing is allocated for a step
// that is right.
std::string_view ShardSequences::append(const Lists& lists, unsigned index, unsigned first_token,
                                        unsigned first_block) {
  Entry* const entry = find(lists.sequences[index]);
  if (entry == nullptr) return "is unknown: it was neither started here nor kept";
  if (entry->last_step == steps_) return "is there twice";
  entry->last_step = steps_;

  const std::uint32_t count = lists.token_counts[index];
  if (count == 0) return "has no token";
  const std::uint32_t start = lists.start_positions[index];
  if (start > entry->tokens.size() || start < entry->tokens.size() - entry->guesses) {
    return "does not go on at the position it had reached";
  }
  const std::uint32_t guesses = lists.guess_counts.size() == 0 ? 0 : lists.guess_counts[index];
  if (guesses >= count) return "has no token before its guesses";
  if (guesses > 0 && !lists.sample[index]) return "has guesses, but nothing is sampled";
  if (guesses > 0 && start + std::uint64_t{count} - guesses < entry->prompt_length) return "has guesses in its prompt";
  entry->tokens.resize(start);
  entry->guesses = guesses;
  const std::uint64_t end = entry->tokens.size() + std::uint64_t{count};
  if (end > options_.max_model_len) return "is longer than max_model_len";

  const std::uint32_t block_count = lists.new_block_counts[index];
  const std::uint64_t max_blocks =
      (std::uint64_t{options_.max_model_len} + options_.block_size - 1) / options_.block_size;
  if (entry->block_table.size() + std::uint64_t{block_count} > max_blocks) return "has more blocks than max_model_len";
  for (unsigned i = first_block; i < first_block + block_count; ++i) {
    const std::uint32_t block = lists.new_blocks[i];
    if (block >= options_.num_blocks) return "names a block that this shard does not have";
    entry->block_table.push_back(block);
  }
  if (end > entry->block_table.size() * std::uint64_t{options_.block_size}) return "has too few blocks for its tokens";

  for (unsigned i = first_token; i < first_token + count; ++i) {
    const std::uint32_t token = lists.tokens[i];
    if (token >= options_.vocab_size) return "has a token beyond the vocabulary";
    entry->tokens.push_back(token);
  }
  const std::uint32_t next_token = lists.next_tokens.size() == 0 ? 0 : lists.next_tokens[index];
  if (next_token >= options_.vocab_size) return "is followed by a token beyond the vocabulary";
  lay_out(*entry, count, next_token, lists.sample[index]);
  return {};
}

void ShardSequences::lay_out(Entry& entry, std::uint32_t count, std::uint32_t next_token, bool sample) {
  const std::uint32_t block_size = options_.block_size;
  const auto end = static_cast<std::uint32_t>(entry.tokens.size());
  const auto first_row = static_cast<std::uint32_t>(flat_.tokens.size());
  BatchItem item{.sequence = entry.sequence, .first_position = end - count, .first_guess = end - entry.guesses};
  for (std::uint32_t position = end - count; position < end; ++position) {
    flat_.tokens.push_back(entry.tokens[position]);
    flat_.positions.push_back(position);
    flat_.slots.push_back(entry.block_table[position / block_size] * block_size + position % block_size);
    const bool rates = entry.sampling.prompt_logprobs && position + 1 < entry.prompt_length;
    // A row that rates is not drawn from: the prompt goes on.
    const bool draws = sample && !rates && position + 1 + entry.guesses >= end;
    if (!rates && !draws) continue;
    item.rated += rates ? 1 : 0;
    item.rows += draws ? 1 : 0;
    flat_.logits_rows.push_back(first_row + position - (end - count));
    tasks_.push_back({.entry = &entry,
                      .item = batch_.size(),
                      .length = position + 1,
                      .sample = draws,
                      .guess = draws && position + entry.guesses >= end,
                      .prompt_token = rates && position + 1 < end ? entry.tokens[position + 1] : next_token});
  }
  flat_.row_starts.push_back(first_row + count);
  flat_.context_lengths.push_back(end);
  const std::uint32_t blocks_used = (end + block_size - 1) / block_size;
  flat_.block_tables.insert(flat_.block_tables.end(), entry.block_table.begin(),
                            entry.block_table.begin() + blocks_used);
  flat_.block_table_starts.push_back(static_cast<std::uint32_t>(flat_.block_tables.size()));
  batch_.push_back(item);
}

Result<void> ShardSequences::sample(std::size_t first_row, std::span<const float> logits) {
  const std::size_t vocab = options_.vocab_size;
  const std::size_t rows = logits.size() / vocab;
  if (first_row != rows_done_ || logits.size() % vocab != 0 || rows > tasks_.size() - first_row) {
    return internal_error("the step needs logits of rows " + std::to_string(rows_done_) + " to " +
                          std::to_string(tasks_.size()) + ", " + std::to_string(vocab) + " each, but there are " +
                          std::to_string(logits.size()) + " numbers from row " + std::to_string(first_row));
  }
  if (outcomes_.size() < first_row + rows) outcomes_.resize(first_row + rows);
  for (std::size_t row = first_row; row < first_row + rows; ++row) {
    const RowTask& task = tasks_[row];
    if (!task.guess || comes_true(row)) {
      TROUPE_RETURN_IF_ERROR(sample_row(task, logits.subspan((row - first_row) * vocab, vocab), outcomes_[row]));
      batch_[task.item].drawn += task.sample ? 1 : 0;
    }
    ++rows_done_;
  }
  return {};
}

RowToDraw ShardSequences::row_to_draw(std::size_t row) const {
  const RowTask& task = tasks_[row];
  const Entry& entry = *task.entry;
  return {.parameters = &entry.sampling,
          .history = std::span(entry.tokens).first(task.length),
          .prompt_length = std::min(entry.prompt_length, task.length),
          .draws = task.sample,
          .token = task.prompt_token};
}

Result<void> ShardSequences::take_drawn(std::span<RatedToken> drawn) {
  assert(drawn.size() == tasks_.size() && rows_done_ == 0);
  if (outcomes_.size() < drawn.size()) outcomes_.resize(drawn.size());
  for (std::size_t row = 0; row < drawn.size(); ++row, ++rows_done_) {
    const RowTask& task = tasks_[row];
    if (task.guess && !comes_true(row)) continue;
    if (drawn[row].chosen.token >= options_.vocab_size) {
      return internal_error("the logits at position " + std::to_string(task.length - 1) +
                            " have no finite maximum: nothing can be drawn from them");
    }
    std::swap(outcomes_[row], drawn[row]);
    batch_[task.item].drawn += task.sample ? 1 : 0;
  }
  return {};
}

// Whether the guess of this row is what was drawn before it, after guesses that came true as well.
bool ShardSequences::comes_true(std::size_t row) const {
  const RowTask& task = tasks_[row];
  const BatchItem& item = batch_[task.item];
  const std::uint32_t place = task.length - 1 - item.first_guess;
  return item.drawn == place + 1 && outcomes_[row - 1].chosen.token == task.entry->tokens[task.length - 1];
}

Result<void> ShardSequences::sample_row(const RowTask& task, std::span<const float> logits, RatedToken& outcome) {
  const Entry& entry = *task.entry;
  std::uint32_t token = task.prompt_token;
  if (task.sample) {
    const auto history = std::span(entry.tokens).first(task.length);
    const std::uint32_t prompt_length = std::min(entry.prompt_length, task.length);
    TROUPE_ASSIGN_OR_RETURN(token, sampler_.sample(logits, history, prompt_length, entry.sampling));
    if (!entry.sampling.logprobs) {
      outcome.chosen = {.token = token, .logprob = std::numeric_limits<float>::quiet_NaN()};
      outcome.top.clear();
      return {};
    }
  }
  sampler_.rate(logits, token, entry.sampling.top_logprobs, outcome);
  return {};
}

Result<void> ShardSequences::write_result(schema::StepResult::Builder result) const {
  if (rows_done_ != tasks_.size()) {
    return internal_error("the step's result needs " + std::to_string(tasks_.size()) + " rows of logits, but only " +
                          std::to_string(rows_done_) + " were sampled");
  }
  unsigned sampled = 0, drawn = 0, rated = 0;
  bool guesses = false;
  for (const BatchItem& item : batch_) {
    sampled += item.rows > 0 ? 1 : 0;
    drawn += item.drawn;
    rated += item.rated > 0 ? 1 : 0;
    guesses = guesses || item.rows > 1;
  }
  auto sequences = result.initSequences(sampled);
  auto tokens = result.initTokens(drawn);
  auto logprobs = result.initLogprobs(drawn);
  auto prompt_logprobs = result.initPromptLogprobs(rated);
  if (guesses) result.initTokenCounts(sampled);
  unsigned next_sequence = 0, next_drawn = 0, next_rated = 0;
  auto outcome = outcomes_.begin();
  for (const BatchItem& item : batch_) {
    if (item.rated > 0) {
      auto part = prompt_logprobs[next_rated++];
      part.setSequence(item.sequence);
      part.setFirstPosition(item.first_position + 1);
      auto items = part.initItems(item.rated);
      for (std::uint32_t i = 0; i < item.rated; ++i) write_rated(*outcome++, items[i]);
    }
    if (item.rows == 0) continue;
    if (guesses) result.getTokenCounts().set(next_sequence, item.drawn);
    sequences.set(next_sequence++, item.sequence);
    for (std::uint32_t i = 0; i < item.drawn; ++i, ++next_drawn) {
      tokens.set(next_drawn, outcome[i].chosen.token);
      write_rated(outcome[i], logprobs[next_drawn]);
    }
    outcome += item.rows;
  }
  return {};
}

void ShardSequences::clear() {
  batch_.clear();
  flat_.logits_rows.clear();
  tasks_.clear();
  rows_done_ = 0;
  for (std::unique_ptr<Entry>& entry : active_) spare_.push_back(std::move(entry));
  active_.clear();
}

std::vector<std::unique_ptr<ShardSequences::Entry>>::iterator ShardSequences::lower_bound(std::uint64_t sequence) {
  return std::lower_bound(
      active_.begin(), active_.end(), sequence,
      [](const std::unique_ptr<Entry>& entry, std::uint64_t value) { return entry->sequence < value; });
}

ShardSequences::Entry* ShardSequences::find(std::uint64_t sequence) {
  const auto found = lower_bound(sequence);
  return found != active_.end() && (*found)->sequence == sequence ? found->get() : nullptr;
}

void ShardSequences::release(std::uint64_t sequence) {
  const auto found = lower_bound(sequence);
  if (found == active_.end() || (*found)->sequence != sequence) return;
  spare_.push_back(std::move(*found));
  active_.erase(found);
}

}  // namespace troupe::engine
