#include "runtime/engine/shard_sequences.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <string>
#include <utility>

#include "runtime/engine/delta.h"
#include "runtime/engine/step_lists.h"

namespace troupe::engine {

namespace {

Error not_in_flight(std::uint64_t step) {
  return internal_error("step " + std::to_string(step) + " is neither the one begun last nor the one before it");
}

std::string name_of(std::uint64_t sequence) { return "sequence " + std::to_string(sequence); }

}  // namespace

ShardSequences::ShardSequences(const ShardSequencesOptions& options, const Limits& limits)
    : options_(options), limits_(limits) {
  active_.reserve(capacity());
  spare_.reserve(capacity());
  released_.reserve(capacity());
  for (OpenStep& open : open_) reset(open);
}

void ShardSequences::reset(OpenStep& open) {
  open.number.reset();
  open.batch.clear();
  open.flat.tokens.clear();
  open.flat.token_sources.clear();
  open.flat.positions.clear();
  open.flat.slots.clear();
  open.flat.row_starts.assign(1, 0);
  open.flat.context_lengths.clear();
  open.flat.block_tables.clear();
  open.flat.block_table_starts.assign(1, 0);
  open.flat.logits_rows.clear();
  open.flat.copies.clear();
  open.tasks.clear();
  open.awaited.clear();
  open.rows_done = 0;
  open.failed = false;
}

Result<void> ShardSequences::begin_step(schema::Step::Reader step) {
  ++steps_;
  reset(newest());
  for (std::unique_ptr<Entry>& entry : released_) spare_.push_back(std::move(entry));
  released_.clear();
  Result<void> done = apply(step);
  if (done.ok()) {
    newest().number = step.getFence().getStep();
  } else {
    reset(newest());
  }
  return done;
}

ShardSequences::OpenStep* ShardSequences::find_open(std::uint64_t step) {
  for (OpenStep* const open : {&newest(), &before()}) {
    if (open->number == step) return open;
  }
  return nullptr;
}

Result<void> ShardSequences::apply(schema::Step::Reader step) {
  const StepLists lists(step);
  TROUPE_RETURN_IF_ERROR(check_sizes(step, lists, options_.max_batch_sequences, options_.max_batch_tokens));
  if (step.getStarts().size() > capacity()) {
    return bad_step(step, "starts more than " + std::to_string(capacity()) + " sequences at a time");
  }
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
  FlatStep& flat = newest().flat;
  if (!flat.token_sources.empty()) flat.token_sources.resize(flat.tokens.size(), FlatStep::kKnown);
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
      return bad_step(step, "copies block " + std::to_string(copy.getFrom()) + " to " + std::to_string(copy.getTo()) +
                                "; this shard has " + std::to_string(blocks));
    }
    newest().flat.copies.push_back({copy.getFrom(), copy.getTo()});
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
std::string_view ShardSequences::append(const StepLists& lists, unsigned index, unsigned first_token,
                                        unsigned first_block) {
  Entry* const entry = find(lists.sequences[index]);
  if (entry == nullptr) return "is unknown: it was neither started here nor kept";
  if (entry->last_step == steps_) return "is there twice";
  const std::uint64_t last_step = std::exchange(entry->last_step, steps_);

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
  if (start > 0 && entry->tokens.back() == schema::SAMPLED_TOKEN) return "goes on behind a token that was never drawn";
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

  if (count == 1 && lists.tokens[first_token] == schema::SAMPLED_TOKEN) {
    if (const std::string_view problem = append_drawn(*entry, last_step); !problem.empty()) return problem;
  } else {
    for (unsigned i = first_token; i < first_token + count; ++i) {
      const std::uint32_t token = lists.tokens[i];
      if (token == schema::SAMPLED_TOKEN) return "has a token to be drawn among others";
      if (token >= options_.vocab_size) return "has a token beyond the vocabulary";
      entry->tokens.push_back(token);
    }
  }
  const std::uint32_t next_token = lists.next_tokens.size() == 0 ? 0 : lists.next_tokens[index];
  if (next_token >= options_.vocab_size) return "is followed by a token beyond the vocabulary";
  lay_out(*entry, count, next_token, lists.sample[index]);
  return {};
}

// The token that the step before draws for it: now, if it is known, or else sampledToken until it is.
std::string_view ShardSequences::append_drawn(Entry& entry, std::uint64_t last_step) {
  constexpr std::string_view kNone = "goes on with a token that the step before does not draw";
  const OpenStep& drawn = before();
  if (last_step == 0 || last_step + 1 != steps_ || entry.last_item >= drawn.batch.size()) return kNone;
  const BatchItem& item = drawn.batch[entry.last_item];
  if (item.sequence != entry.sequence || item.rows != 1 || drawn.failed) return kNone;
  if (entry.tokens.size() < entry.prompt_length) return "has a token to be drawn in its prompt";
  const std::uint32_t row = item.first_row + item.rated;
  if (row < drawn.rows_done) {
    entry.tokens.push_back(drawn.outcomes[row].chosen.token);
    return {};
  }
  FlatStep& flat = newest().flat;
  flat.token_sources.resize(flat.tokens.size(), FlatStep::kKnown);
  flat.token_sources.push_back(row);
  newest().awaited.push_back({.entry = &entry, .row = row});
  entry.tokens.push_back(schema::SAMPLED_TOKEN);
  return {};
}

void ShardSequences::lay_out(Entry& entry, std::uint32_t count, std::uint32_t next_token, bool sample) {
  FlatStep& flat = newest().flat;
  std::vector<BatchItem>& batch = newest().batch;
  std::vector<RowTask>& tasks = newest().tasks;
  const std::uint32_t block_size = options_.block_size;
  const auto end = static_cast<std::uint32_t>(entry.tokens.size());
  const auto first_row = static_cast<std::uint32_t>(flat.tokens.size());
  BatchItem item{.sequence = entry.sequence,
                 .first_row = static_cast<std::uint32_t>(tasks.size()),
                 .first_position = end - count,
                 .first_guess = end - entry.guesses};
  for (std::uint32_t position = end - count; position < end; ++position) {
    flat.tokens.push_back(entry.tokens[position] == schema::SAMPLED_TOKEN ? 0 : entry.tokens[position]);
    flat.positions.push_back(position);
    flat.slots.push_back(entry.block_table[position / block_size] * block_size + position % block_size);
    const bool rates = entry.sampling.prompt_logprobs && position + 1 < entry.prompt_length;
    // A row that rates is not drawn from: the prompt goes on.
    const bool draws = sample && !rates && position + 1 + entry.guesses >= end;
    if (!rates && !draws) continue;
    item.rated += rates ? 1 : 0;
    item.rows += draws ? 1 : 0;
    flat.logits_rows.push_back(first_row + position - (end - count));
    tasks.push_back({.entry = &entry,
                     .item = batch.size(),
                     .length = position + 1,
                     .sample = draws,
                     .guess = draws && position + entry.guesses >= end,
                     .prompt_token = rates && position + 1 < end ? entry.tokens[position + 1] : next_token});
  }
  flat.row_starts.push_back(first_row + count);
  flat.context_lengths.push_back(end);
  const std::uint32_t blocks_used = (end + block_size - 1) / block_size;
  flat.block_tables.insert(flat.block_tables.end(), entry.block_table.begin(), entry.block_table.begin() + blocks_used);
  flat.block_table_starts.push_back(static_cast<std::uint32_t>(flat.block_tables.size()));
  entry.last_item = batch.size();
  batch.push_back(item);
}

Result<void> ShardSequences::sample(std::uint64_t step, std::size_t first_row, std::span<const float> logits) {
  OpenStep* const found = find_open(step);
  if (found == nullptr) return not_in_flight(step);
  OpenStep& open = *found;
  const std::size_t vocab = options_.vocab_size;
  const std::size_t rows = logits.size() / vocab;
  if (first_row != open.rows_done || logits.size() % vocab != 0 || rows > open.tasks.size() - first_row) {
    return internal_error("the step needs logits of rows " + std::to_string(open.rows_done) + " to " +
                          std::to_string(open.tasks.size()) + ", " + std::to_string(vocab) + " each, but there are " +
                          std::to_string(logits.size()) + " numbers from row " + std::to_string(first_row));
  }
  if (open.outcomes.size() < first_row + rows) open.outcomes.resize(first_row + rows);
  for (std::size_t row = first_row; row < first_row + rows; ++row) {
    const RowTask& task = open.tasks[row];
    TROUPE_RETURN_IF_ERROR(check_history(task));
    if (!task.guess || comes_true(open, row)) {
      const auto of_row = logits.subspan((row - first_row) * vocab, vocab);
      if (Result<void> done = sample_row(task, of_row, open.outcomes[row]); !done.ok()) {
        open.failed = true;
        return done;
      }
      open.batch[task.item].drawn += task.sample ? 1 : 0;
    }
    ++open.rows_done;
  }
  if (&open != &newest()) fill_in(open);
  return {};
}

RowToDraw ShardSequences::row_to_draw(std::size_t row) const {
  const RowTask& task = newest().tasks[row];
  const Entry& entry = *task.entry;
  return {.parameters = &entry.sampling,
          .history = std::span(entry.tokens).first(task.length),
          .prompt_length = std::min(entry.prompt_length, task.length),
          .draws = task.sample,
          .token = task.prompt_token};
}

Result<void> ShardSequences::take_drawn(std::uint64_t step, std::span<RatedToken> drawn) {
  OpenStep* const found = find_open(step);
  if (found == nullptr) return not_in_flight(step);
  OpenStep& open = *found;
  assert(drawn.size() == open.tasks.size() && open.rows_done == 0);
  if (open.outcomes.size() < drawn.size()) open.outcomes.resize(drawn.size());
  for (std::size_t row = 0; row < drawn.size(); ++row, ++open.rows_done) {
    const RowTask& task = open.tasks[row];
    TROUPE_RETURN_IF_ERROR(check_history(task));
    if (task.guess && !comes_true(open, row)) continue;
    if (drawn[row].chosen.token >= options_.vocab_size) {
      open.failed = true;
      return internal_error("the logits at position " + std::to_string(task.length - 1) +
                            " have no finite maximum: nothing can be drawn from them");
    }
    std::swap(open.outcomes[row], drawn[row]);
    open.batch[task.item].drawn += task.sample ? 1 : 0;
  }
  if (&open != &newest()) fill_in(open);
  return {};
}

bool ShardSequences::needs_drawn(schema::Step::Reader step) {
  const auto sequences = step.getSequences();
  const auto token_counts = step.getTokenCounts(), tokens = step.getTokens();
  std::uint64_t first = 0;
  for (unsigned i = 0; i < sequences.size() && i < token_counts.size() && first < tokens.size(); ++i) {
    if (tokens[static_cast<unsigned>(first)] == schema::SAMPLED_TOKEN) {
      const Entry* const entry = find(sequences[i]);
      if (entry != nullptr && entry->sampling.has_penalties()) return true;
    }
    first += token_counts[i];
  }
  return false;
}

// What is drawn hangs on every token before, the newest included.
Result<void> ShardSequences::check_history(const RowTask& task) {
  const std::vector<std::uint32_t>& tokens = task.entry->tokens;
  if (tokens.size() >= task.length && tokens[task.length - 1] != schema::SAMPLED_TOKEN) return {};
  return internal_error(name_of(task.entry->sequence) + " lacks a token that was drawn before, or went back");
}

// Tokens of the step begun last that the step before it has drawn by now.
void ShardSequences::fill_in(const OpenStep& drawn) {
  std::erase_if(newest().awaited, [&](const Awaited& awaited) {
    if (awaited.row >= drawn.rows_done) return false;
    awaited.entry->tokens.back() = drawn.outcomes[awaited.row].chosen.token;
    return true;
  });
}

// Whether the guess of this row is what was drawn before it, after guesses that came true as well.
bool ShardSequences::comes_true(const OpenStep& open, std::size_t row) {
  const RowTask& task = open.tasks[row];
  const BatchItem& item = open.batch[task.item];
  const std::uint32_t place = task.length - 1 - item.first_guess;
  return item.drawn == place + 1 && open.outcomes[row - 1].chosen.token == task.entry->tokens[task.length - 1];
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

Result<void> ShardSequences::write_result(std::uint64_t step, schema::StepResult::Builder result) {
  const OpenStep* const open = find_open(step);
  if (open == nullptr) return not_in_flight(step);
  if (open->rows_done != open->tasks.size()) {
    return internal_error("the step's result needs " + std::to_string(open->tasks.size()) +
                          " rows of logits, but only " + std::to_string(open->rows_done) + " were sampled");
  }
  unsigned sampled = 0, drawn = 0, rated = 0;
  bool guesses = false;
  for (const BatchItem& item : open->batch) {
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
  auto outcome = open->outcomes.begin();
  for (const BatchItem& item : open->batch) {
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
  for (OpenStep& open : open_) reset(open);
  for (std::vector<std::unique_ptr<Entry>>* entries : {&active_, &released_}) {
    for (std::unique_ptr<Entry>& entry : *entries) spare_.push_back(std::move(entry));
    entries->clear();
  }
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
  released_.push_back(std::move(*found));
  active_.erase(found);
}

}  // namespace troupe::engine
