#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/select.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "runtime/engine/block_manager.h"
#include "runtime/model/transformer.h"
#include "schema/draft.capnp.h"

namespace troupe {

struct DraftComputeOptions {
  std::filesystem::path model;
  std::filesystem::path guesses_for;  // the model whose tokens it guesses
  kernels::ComputeDevice device;
  std::uint32_t num_blocks = 0;
  std::uint32_t block_size = 0;
  std::uint32_t max_model_len = 0;
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_batch_sequences = 0;
  std::uint32_t max_sequences = 0;  // known at a time; beyond them the one asked about longest ago is forgotten
  kernels::DType kv_dtype = kernels::DType::kF32;
};

// What a draft is without the messages around it: a small model, whole, on one device, and the sequences it knows.
// Guesses are greedy: for a guess that is taken or left, the most probable token is the best one at any temperature.
// They end with an answer: what a model says after its end of a sequence is hardly worth guessing.
//
// Thread-safety: one thread, that of load(), which is pinned to the device's first core.
class DraftCompute {
 public:
  // Errors: of the model's files, of the device, of memory; kInvalidArgument when the two models have different
  // vocabularies (param "draft").
  static Result<std::unique_ptr<DraftCompute>> load(const DraftComputeOptions& options, const Limits& limits);

  // Fills the reply. Errors: a request that contradicts itself, or a token beyond the vocabulary; the reply is then
  // empty, and the sequences of the request are as before or forgotten.
  Result<void> guess(schema::DraftRequest::Reader request, schema::DraftReply::Builder reply);

  // Of all sequences.
  void clear();

  std::size_t known_sequences() const { return entries_.size(); }
  const model::Transformer& transformer() const { return *transformer_; }

 private:
  struct Entry {
    std::uint64_t sequence = 0;
    std::uint64_t last_request = 0;
    std::uint32_t computed = 0;         // tokens whose keys and values are in the pages
    std::vector<std::uint32_t> tokens;  // told, and behind them its own guesses
  };
  // Tokens of an entry that are computed in one pass.
  struct Part {
    Entry* entry = nullptr;
    std::uint32_t count = 0;
  };

  DraftCompute(const DraftComputeOptions& options, std::unique_ptr<kernels::Kernels> kernels,
               std::unique_ptr<collective::Communicator> group, std::unique_ptr<model::Transformer> transformer);

  Result<void> check(schema::DraftRequest::Reader request) const;
  Entry* tell(std::uint64_t sequence, std::uint32_t start, std::span<const std::uint32_t> tokens);
  bool make_room(const Entry& entry, std::uint64_t tokens);
  void forget(std::uint64_t sequence);
  bool ends_answer(std::uint32_t token) const;
  Result<void> read_up_to_last(std::span<Entry* const> entries);
  Result<void> append_guesses(std::span<Entry* const> entries);
  Result<kernels::ConstMatrixF32> forward(std::span<const Part> parts, bool wants_logits);
  Result<void> draw(kernels::ConstMatrixF32 hidden, std::size_t count);

  const DraftComputeOptions options_;
  std::unique_ptr<kernels::Kernels> kernels_;
  std::unique_ptr<collective::Communicator> group_;
  std::unique_ptr<model::Transformer> transformer_;
  engine::BlockManager blocks_;
  std::map<std::uint64_t, Entry> entries_;
  std::uint64_t requests_ = 0;

  // One pass, flat.
  std::vector<std::uint32_t> tokens_;
  std::vector<std::uint32_t> positions_;
  std::vector<std::uint32_t> slots_;
  std::vector<std::uint32_t> row_starts_;
  std::vector<std::uint32_t> context_lengths_;
  std::vector<std::uint32_t> block_tables_;
  std::vector<std::uint32_t> block_table_starts_;
  std::vector<std::uint32_t> logits_rows_;
  std::vector<kernels::SamplingRow> greedy_;  // as many as were ever drawn together
  std::vector<std::uint32_t> drawn_;          // the tokens of the latest draw()
};

}  // namespace troupe
