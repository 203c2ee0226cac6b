#include "actors/draft_compute.h"

#include <algorithm>
#include <string>
#include <utility>

#include "actors/gateway/served_model.h"
#include "kernels/select.h"
#include "runtime/collective/in_process.h"
#include "runtime/model/config.h"
#include "runtime/model/slice.h"

namespace troupe {
namespace {

// Ids must mean the same to both: the same number of them, and the same bytes where there are tokenizers.
Result<void> check_vocabularies(const DraftComputeOptions& options, std::uint32_t draft_size, const Limits& limits) {
  const auto differ = [&](const std::string& how) {
    return invalid_argument(options.model.string() + " cannot guess for " + options.guesses_for.string() + ": " + how +
                                "; a draft has the same tokenizer and vocabulary as its model",
                            "draft");
  };
  TROUPE_ASSIGN_OR_RETURN(const model::ModelConfig config, model::load_config(options.guesses_for, limits));
  if (config.vocab_size != draft_size) {
    return differ("its vocabulary has " + std::to_string(draft_size) + " tokens, not " +
                  std::to_string(config.vocab_size));
  }
  ServedModel draft, model;
  TROUPE_RETURN_IF_ERROR(load_text_parts(options.model, limits, draft));
  TROUPE_RETURN_IF_ERROR(load_text_parts(options.guesses_for, limits, model));
  if (!draft.tokenizer || !model.tokenizer) return {};
  for (std::uint32_t token = 0; token < draft_size; ++token) {
    if (draft.token_bytes(token) != model.token_bytes(token)) {
      return differ("token " + std::to_string(token) + " is '" + draft.token_name(token) + "' to the one and '" +
                    model.token_name(token) + "' to the other");
    }
  }
  return {};
}

std::uint32_t most_probable(std::span<const float> logits) {
  return static_cast<std::uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

Result<std::unique_ptr<DraftCompute>> DraftCompute::load(const DraftComputeOptions& requested, const Limits& limits) {
  DraftComputeOptions options = requested;
  TROUPE_ASSIGN_OR_RETURN(const model::ModelConfig config, model::load_config(options.model, limits));
  TROUPE_RETURN_IF_ERROR(check_vocabularies(options, config.vocab_size, limits));
  options.max_model_len = std::min(options.max_model_len, config.max_position_embeddings);
  TROUPE_ASSIGN_OR_RETURN(auto kernels, kernels::make_kernels(options.device));
  auto group = std::move(collective::make_in_process_group(1).front());
  const model::Slice whole = {.last_layer = config.num_layers, .num_layers = config.num_layers, .world_size = 1};
  TROUPE_ASSIGN_OR_RETURN(auto transformer,
                          model::Transformer::load(options.model, config, whole, *kernels, *group,
                                                   {.num_blocks = options.num_blocks,
                                                    .block_size = options.block_size,
                                                    .max_batch_tokens = options.max_batch_tokens,
                                                    .max_batch_sequences = options.max_batch_sequences,
                                                    .kv_dtype = options.kv_dtype},
                                                   {}, limits));
  return std::unique_ptr<DraftCompute>(
      new DraftCompute(options, std::move(kernels), std::move(group), std::move(transformer)));
}

DraftCompute::DraftCompute(const DraftComputeOptions& options, std::unique_ptr<kernels::Kernels> kernels,
                           std::unique_ptr<collective::Communicator> group,
                           std::unique_ptr<model::Transformer> transformer)
    : options_(options),
      kernels_(std::move(kernels)),
      group_(std::move(group)),
      transformer_(std::move(transformer)),
      blocks_(options.num_blocks, options.block_size, 0) {}

Result<void> DraftCompute::check(schema::DraftRequest::Reader request) const {
  const auto sequences = request.getSequences();
  const auto token_counts = request.getTokenCounts();
  const auto size = sequences.size();
  if (size > options_.max_sequences || request.getStartPositions().size() != size || token_counts.size() != size) {
    return invalid_argument("draft request: its lists with one entry a sequence differ in length, or have more than " +
                            std::to_string(options_.max_sequences) + " entries");
  }
  std::uint64_t sum = 0;
  for (unsigned i = 0; i < size; ++i) {
    const std::uint32_t count = token_counts[i];
    if (count == 0 || std::count(sequences.begin(), sequences.end(), sequences[i]) > 1) {
      return invalid_argument("draft request: a sequence without tokens, or there twice");
    }
    sum += count;
  }
  if (sum != request.getTokens().size()) {
    return invalid_argument("draft request: tokenCounts do not sum up to its tokens");
  }
  const std::uint32_t vocab_size = transformer_->config().vocab_size;
  for (const std::uint32_t token : request.getTokens()) {
    if (token >= vocab_size) return invalid_argument("draft request: a token beyond the vocabulary");
  }
  return {};
}

Result<void> DraftCompute::guess(schema::DraftRequest::Reader request, schema::DraftReply::Builder reply) {
  ++requests_;
  for (const std::uint64_t sequence : request.getReleased()) forget(sequence);
  TROUPE_RETURN_IF_ERROR(check(request));
  // Each list is taken out of the message once: readers count how often.
  const auto sequences = request.getSequences();
  const auto start_positions = request.getStartPositions(), token_counts = request.getTokenCounts();
  const auto told_tokens = request.getTokens();
  const std::uint32_t guesses = std::min(request.getGuesses(), options_.max_model_len);
  std::vector<Entry*> known;
  std::vector<std::uint32_t> told(sequences.size()), lengths(sequences.size());
  unsigned first = 0;
  for (unsigned i = 0; i < sequences.size(); ++i) {
    const std::uint32_t start = start_positions[i], count = token_counts[i];
    std::vector<std::uint32_t> tokens;
    for (unsigned k = first; k < first + count; ++k) tokens.push_back(told_tokens[k]);
    first += count;
    Entry* entry = tell(sequences[i], start, tokens);
    // The last guess is never computed.
    if (entry != nullptr && !make_room(*entry, entry->tokens.size() + std::max(guesses, 1u) - 1)) {
      forget(sequences[i]);
      entry = nullptr;
    }
    if (entry == nullptr) continue;
    lengths[i] = static_cast<std::uint32_t>(entry->tokens.size());
  }
  // Making room for one may have cost another its place.
  for (unsigned i = 0; i < sequences.size(); ++i) {
    const auto found = entries_.find(sequences[i]);
    if (found == entries_.end()) lengths[i] = 0;
    if (lengths[i] > 0) known.push_back(&found->second);
  }

  Result<void> done = read_up_to_last(known);
  std::vector<Entry*> going_on = known;
  for (std::uint32_t guess = 0; done.ok() && guess < guesses; ++guess) {
    done = append_guesses(going_on);
    std::erase_if(going_on, [&](const Entry* entry) { return ends_answer(entry->tokens.back()); });
  }
  if (!done.ok()) {
    for (const std::uint64_t sequence : sequences) forget(sequence);
    return done;
  }
  auto reply_lengths = reply.initLengths(sequences.size());
  auto counts = reply.initGuessCounts(sequences.size());
  unsigned size = 0;
  for (unsigned i = 0; i < sequences.size(); ++i) {
    reply_lengths.set(i, lengths[i]);
    if (lengths[i] == 0) continue;
    counts.set(i, static_cast<std::uint32_t>(entries_.at(sequences[i]).tokens.size()) - lengths[i]);
    size += counts[i];
  }
  auto tokens = reply.initTokens(size);
  unsigned next = 0;
  for (unsigned i = 0; i < sequences.size(); ++i) {
    for (std::uint32_t k = 0; k < counts[i]; ++k) tokens.set(next++, entries_.at(sequences[i]).tokens[lengths[i] + k]);
  }
  return {};
}

bool DraftCompute::ends_answer(std::uint32_t token) const {
  const std::vector<std::uint32_t>& ends = transformer_->config().eos_token_ids;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

// The entry with `tokens` from position `start` on; null when it does not know what comes before. What was computed
// stays as far as it was right: guesses of its own that came true among it.
DraftCompute::Entry* DraftCompute::tell(std::uint64_t sequence, std::uint32_t start,
                                        std::span<const std::uint32_t> tokens) {
  const auto found = entries_.find(sequence);
  if (start > (found == entries_.end() ? 0 : found->second.tokens.size())) {
    forget(sequence);
    return nullptr;
  }
  if (found == entries_.end() && entries_.size() >= options_.max_sequences) {
    const auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second.last_request < b.second.last_request;
    });
    forget(oldest->first);
  }
  Entry& entry = entries_[sequence];
  entry.sequence = sequence;
  entry.last_request = requests_;
  const auto had = std::span(entry.tokens).subspan(start);
  const auto same = std::mismatch(had.begin(), had.end(), tokens.begin(), tokens.end()).first - had.begin();
  entry.tokens.resize(start);
  entry.tokens.insert(entry.tokens.end(), tokens.begin(), tokens.end());
  // The newest token is computed again in any case: its logits are wanted.
  entry.computed = std::min(
      {entry.computed, start + static_cast<std::uint32_t>(same), static_cast<std::uint32_t>(entry.tokens.size()) - 1});
  return &entry;
}

// Whether the pages hold so many tokens of the entry. Those of sequences that were not asked about now make room.
bool DraftCompute::make_room(const Entry& entry, std::uint64_t tokens) {
  if (tokens > options_.max_model_len) return false;
  while (!blocks_.grow(entry.sequence, tokens)) {
    const Entry* oldest = nullptr;
    for (const auto& [sequence, other] : entries_) {
      if (oldest == nullptr || other.last_request < oldest->last_request) oldest = &other;
    }
    if (oldest->last_request == requests_) return false;
    forget(oldest->sequence);
  }
  return true;
}

void DraftCompute::forget(std::uint64_t sequence) {
  blocks_.release(sequence);
  entries_.erase(sequence);
}

void DraftCompute::clear() {
  for (const auto& [sequence, entry] : entries_) blocks_.release(sequence);
  entries_.clear();
}

// Computes all tokens but the last of each, in passes as large as fit.
Result<void> DraftCompute::read_up_to_last(std::span<Entry* const> entries) {
  std::vector<Part> parts;
  std::uint32_t rows = 0;
  const auto run = [&]() -> Result<void> {
    if (parts.empty()) return {};
    TROUPE_RETURN_IF_ERROR(forward(parts, false));
    parts.clear();
    rows = 0;
    return {};
  };
  for (Entry* entry : entries) {
    for (std::uint32_t left; (left = static_cast<std::uint32_t>(entry->tokens.size()) - 1 - entry->computed) > 0;) {
      const std::uint32_t count = std::min(left, options_.max_batch_tokens - rows);
      parts.push_back({entry, count});
      rows += count;
      if (rows < options_.max_batch_tokens && parts.size() < options_.max_batch_sequences) break;
      TROUPE_RETURN_IF_ERROR(run());
      if (count == left) break;
    }
  }
  return run();
}

// Computes the last token of each and appends what is most probable after it.
Result<void> DraftCompute::append_guesses(std::span<Entry* const> entries) {
  const std::size_t most = std::min(options_.max_batch_sequences, options_.max_batch_tokens);
  for (std::size_t first = 0; first < entries.size(); first += most) {
    std::vector<Part> parts;
    for (Entry* entry : entries.subspan(first, std::min(most, entries.size() - first))) parts.push_back({entry, 1});
    TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 hidden, forward(parts, true));
    TROUPE_RETURN_IF_ERROR(draw(hidden, parts.size()));
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i].entry->tokens.push_back(drawn_[i]);
  }
  return {};
}

// drawn_ = the most probable tokens after the first `count` rows that logits are wanted of; where nothing is most
// probable, any token is a guess.
Result<void> DraftCompute::draw(kernels::ConstMatrixF32 hidden, std::size_t count) {
  drawn_.clear();
  if (kernels::RowSampler* const sampler = kernels_->sampler(); sampler != nullptr) {
    TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 logits, transformer_->device_logits(hidden, 0, count));
    if (greedy_.size() < count) greedy_.resize(count, {{.temperature = 0}});
    sampler->begin({.rows = std::span(greedy_).first(count)});
    sampler->draw(0, logits);
    sampler->send();
    TROUPE_RETURN_IF_ERROR(kernels_->memory().synchronize());
    TROUPE_ASSIGN_OR_RETURN(const kernels::SampledRows sampled, sampler->take());
    for (const std::uint32_t token : sampled.tokens) drawn_.push_back(token == kernels::kNoToken ? 0 : token);
    return {};
  }
  TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 logits, transformer_->logits(hidden, 0, count));
  for (std::size_t i = 0; i < count; ++i) drawn_.push_back(most_probable({logits.row(i), logits.cols}));
  return {};
}

// Computes the next tokens of each part: the hidden states of all of them, of which the last one of each is wanted for
// logits.
Result<kernels::ConstMatrixF32> DraftCompute::forward(std::span<const Part> parts, bool wants_logits) {
  for (auto* list : {&tokens_, &positions_, &slots_, &context_lengths_, &block_tables_, &logits_rows_}) list->clear();
  row_starts_.assign(1, 0);
  block_table_starts_.assign(1, 0);
  const std::uint32_t block_size = options_.block_size;
  for (const auto& [entry, count] : parts) {
    const auto table = blocks_.table(entry->sequence);
    for (const std::uint32_t end = entry->computed + count; entry->computed < end; ++entry->computed) {
      tokens_.push_back(entry->tokens[entry->computed]);
      positions_.push_back(entry->computed);
      slots_.push_back(table[entry->computed / block_size] * block_size + entry->computed % block_size);
    }
    row_starts_.push_back(static_cast<std::uint32_t>(tokens_.size()));
    context_lengths_.push_back(entry->computed);
    const auto used = table.first(blocks_.blocks_for(entry->computed));
    block_tables_.insert(block_tables_.end(), used.begin(), used.end());
    block_table_starts_.push_back(static_cast<std::uint32_t>(block_tables_.size()));
    if (wants_logits) logits_rows_.push_back(static_cast<std::uint32_t>(tokens_.size() - 1));
  }
  const model::StepBatch batch = {.tokens = tokens_,
                                  .positions = positions_,
                                  .slots = slots_,
                                  .attention = {.row_starts = row_starts_,
                                                .context_lengths = context_lengths_,
                                                .block_tables = block_tables_,
                                                .block_table_starts = block_table_starts_},
                                  .logits_rows = logits_rows_};
  return transformer_->forward(batch, {});
}

}  // namespace troupe
