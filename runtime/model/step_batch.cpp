#include "runtime/model/step_batch.h"

#include <string>

namespace troupe::model {
namespace {

Error bad(std::string_view list, std::size_t index, const std::string& what) {
  return invalid_argument("step: " + std::string(list) + "[" + std::to_string(index) + "] " + what, std::string(list));
}

Error bad_size(std::string_view list, std::size_t size, const std::string& what) {
  return invalid_argument("step: " + std::string(list) + " has " + std::to_string(size) + " entries; " + what,
                          std::string(list));
}

// Sequence `index`: its table covers its context, and its rows are the last of its context.
Result<void> check_sequence(const StepBatch& batch, const BatchBounds& bounds, std::size_t index) {
  const kernels::AttentionBatch& attention = batch.attention;
  const std::uint32_t first_row = attention.row_starts[index];
  const std::uint32_t end_row = attention.row_starts[index + 1];
  const std::uint32_t context = attention.context_lengths[index];
  if (end_row <= first_row || end_row > batch.tokens.size()) return bad("row_starts", index + 1, "is out of order");
  const std::uint32_t rows = end_row - first_row;
  if (context < rows) return bad("context_lengths", index, "is less than the sequence's rows");

  const std::uint32_t table_start = attention.block_table_starts[index];
  const std::uint32_t table_end = attention.block_table_starts[index + 1];
  if (table_end < table_start || table_end > attention.block_tables.size()) {
    return bad("block_table_starts", index + 1, "is out of order");
  }
  const std::uint64_t table_tokens = std::uint64_t{table_end - table_start} * bounds.block_size;
  if (context > table_tokens) return bad("context_lengths", index, "is more than the sequence's blocks hold");
  const auto table = attention.block_tables.subspan(table_start, table_end - table_start);
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i] >= bounds.num_blocks) return bad("block_tables", table_start + i, "is not a block");
  }
  for (std::uint32_t row = first_row; row < end_row; ++row) {
    const std::uint32_t position = context - (end_row - row);
    if (batch.positions[row] != position) return bad("positions", row, "is not " + std::to_string(position));
    const std::uint64_t slot =
        std::uint64_t{table[position / bounds.block_size]} * bounds.block_size + position % bounds.block_size;
    if (batch.slots[row] != slot) return bad("slots", row, "is not " + std::to_string(slot));
  }
  return {};
}

}  // namespace

Result<void> check_batch(const StepBatch& batch, const BatchBounds& bounds) {
  const std::size_t tokens = batch.tokens.size();
  const kernels::AttentionBatch& attention = batch.attention;
  const std::size_t sequences = attention.context_lengths.size();
  if (tokens == 0 || tokens > bounds.max_batch_tokens) {
    return bad_size("tokens", tokens, "1 to max_batch_tokens = " + std::to_string(bounds.max_batch_tokens) + " fit");
  }
  if (batch.positions.size() != tokens) return bad_size("positions", batch.positions.size(), "one a token is needed");
  if (!batch.token_sources.empty() && batch.token_sources.size() != tokens) {
    return bad_size("token_sources", batch.token_sources.size(), "one a token is needed, or none");
  }
  if (batch.slots.size() != tokens) return bad_size("slots", batch.slots.size(), "one a token is needed");
  if (sequences == 0 || sequences > bounds.max_batch_sequences) {
    return bad_size("context_lengths", sequences,
                    "1 to max_batch_sequences = " + std::to_string(bounds.max_batch_sequences) + " fit");
  }
  if (attention.row_starts.size() != sequences + 1) {
    return bad_size("row_starts", attention.row_starts.size(), "one a sequence and one more are needed");
  }
  if (attention.block_table_starts.size() != sequences + 1) {
    return bad_size("block_table_starts", attention.block_table_starts.size(),
                    "one a sequence and one more are needed");
  }
  if (attention.row_starts.front() != 0) return bad("row_starts", 0, "is not 0");
  if (attention.row_starts.back() != tokens) return bad("row_starts", sequences, "is not the number of tokens");
  for (std::size_t i = 0; i < sequences; ++i) TROUPE_RETURN_IF_ERROR(check_sequence(batch, bounds, i));
  for (std::size_t row = 0; row < tokens; ++row) {
    if (batch.tokens[row] >= bounds.vocab_size) return bad("tokens", row, "is not in the vocabulary");
  }
  for (std::size_t i = 0; i < batch.logits_rows.size(); ++i) {
    if (batch.logits_rows[i] >= tokens) return bad("logits_rows", i, "is not a row of the batch");
  }
  return {};
}

}  // namespace troupe::model
