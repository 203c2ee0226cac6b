#include "tests/runtime/model/thread_cluster.h"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <optional>
#include <thread>

#include "kernels/select.h"
#include "runtime/collective/in_process.h"
#include "runtime/model/staged_communicator.h"
#include "tests/runtime/model/guarded_kernels.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

// The flat lists of a step.
struct OwnedBatch {
  std::vector<std::uint32_t> tokens, positions, slots, row_starts{0}, context_lengths, block_tables,
      block_table_starts{0}, logits_rows;

  void add(const StepPart& part, std::uint32_t block_size) {
    const TestSequence& sequence = *part.sequence;
    for (std::uint32_t i = 0; i < part.count; ++i) {
      const std::uint32_t position = sequence.computed + i;
      if (part.all_logits || i + 1 == part.count) logits_rows.push_back(static_cast<std::uint32_t>(tokens.size()));
      tokens.push_back(sequence.tokens[position]);
      positions.push_back(position);
      slots.push_back(sequence.blocks[position / block_size] * block_size + position % block_size);
    }
    row_starts.push_back(static_cast<std::uint32_t>(tokens.size()));
    context_lengths.push_back(sequence.computed + part.count);
    block_tables.insert(block_tables.end(), sequence.blocks.begin(), sequence.blocks.end());
    block_table_starts.push_back(static_cast<std::uint32_t>(block_tables.size()));
  }
  StepBatch view() const {
    return {tokens, positions, slots, {row_starts, context_lengths, block_tables, block_table_starts}, logits_rows};
  }
};

// The logits of a step on the device, copied to `memory`.
Result<kernels::ConstMatrixF32> fetch_device_logits(Transformer& transformer, kernels::Kernels& kernels,
                                                    kernels::ConstMatrixF32 hidden, std::size_t rows,
                                                    std::vector<float>& memory) {
  TROUPE_ASSIGN_OR_RETURN(const kernels::ConstMatrixF32 there, transformer.device_logits(hidden, 0, rows));
  memory.resize(there.rows * there.cols);
  TROUPE_RETURN_IF_ERROR(kernels.memory().download(memory.data(), there.data, memory.size() * sizeof(float)));
  return kernels::ConstMatrixF32(memory.data(), there.rows, there.cols);
}

}  // namespace

std::unique_ptr<kernels::Kernels> ThreadCluster::make_kernels() const {
  return options_.make_kernels ? options_.make_kernels() : make_kernels(options_.implementation);
}

std::unique_ptr<kernels::Kernels> ThreadCluster::make_kernels(const std::string& implementation) const {
  if (implementation == "guarded") return make_guarded_kernels();
  auto made = implementation == "gpu" ? kernels::make_kernels({.cores = {}, .gpu = 0})
                                      : kernels::make_cpu_kernels({{}, implementation});
  BOOST_REQUIRE_MESSAGE(made.ok(), why(made));
  return std::move(*made);
}

// The group for tensors in the memory that these kernels compute in.
std::unique_ptr<collective::Communicator> ThreadCluster::suited(std::unique_ptr<collective::Communicator> group,
                                                                kernels::Kernels& kernels) const {
  if (options_.suit_group) return options_.suit_group(std::move(group), kernels);
  if (kernels.memory().is_host()) return group;
  return make_staged_communicator(std::move(group), kernels.memory());
}

ThreadCluster::ThreadCluster(const std::filesystem::path& model_directory, const ModelConfig& config,
                             const Options& options)
    : options_(options) {
  std::vector<std::uint32_t> bounds{0};
  bounds.insert(bounds.end(), options.cuts.begin(), options.cuts.end());
  bounds.push_back(config.num_layers);
  for (std::size_t stage = 0; stage + 1 < bounds.size(); ++stage) {
    stages_.emplace_back().group = collective::make_in_process_group(options.world_size);
    for (std::uint32_t rank = 0; rank < options.world_size; ++rank) {
      std::unique_ptr<kernels::Kernels> kernels = make_kernels();
      auto& group = stages_[stage].group[rank];
      group = suited(std::move(group), *kernels);
      Slice slice = {bounds[stage], bounds[stage + 1], config.num_layers, rank, options.world_size};
      if (has_experts(config, slice)) slice.expert_shards = options.expert_shards;
      std::unique_ptr<LocalExperts> experts;
      if (slice.expert_shards != 0) {
        const auto of_experts = [&] {
          return options.expert_implementation.empty() ? make_kernels() : make_kernels(options.expert_implementation);
        };
        experts =
            std::make_unique<LocalExperts>(model_directory, config, slice, of_experts,
                                           ExpertShardOptions{.max_batch_tokens = options.transformer.max_batch_tokens,
                                                              .packed_cache = options.transformer.packed_cache});
      }
      auto loaded = Transformer::load(model_directory, config, slice, *kernels, *group, options.transformer);
      BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
      (*loaded)->set_remote_experts(experts.get());
      stages_[stage].ranks.push_back({std::move(kernels), std::move(experts), std::move(*loaded)});
    }
  }
  for (std::uint32_t block = 0; block < options.transformer.num_blocks; ++block) free_blocks_.push_back(block);
  std::shuffle(free_blocks_.begin(), free_blocks_.end(), std::mt19937(7));
}

std::vector<std::vector<float>> ThreadCluster::step(const std::vector<StepPart>& parts) {
  const std::uint32_t block_size = options_.transformer.block_size;
  OwnedBatch owned;
  for (const StepPart& part : parts) {
    TestSequence& sequence = *part.sequence;
    while (sequence.blocks.size() * block_size < sequence.computed + part.count) {
      BOOST_REQUIRE(!free_blocks_.empty());
      sequence.blocks.push_back(free_blocks_.back());
      free_blocks_.pop_back();
    }
    owned.add(part, block_size);
  }
  const StepBatch batch = owned.view();

  kernels::ConstMatrixF32 hidden;
  std::vector<std::vector<float>> rows;
  for (Stage& stage : stages_) {
    std::vector<std::optional<Error>> errors(stage.ranks.size());
    std::vector<kernels::ConstMatrixF32> outputs(stage.ranks.size());
    std::vector<kernels::ConstMatrixF32> logits_of_rank(stage.ranks.size());
    std::vector<std::vector<float>> device_logits(stage.ranks.size());
    std::vector<std::thread> threads;
    for (std::size_t rank = 0; rank < stage.ranks.size(); ++rank) {
      threads.emplace_back([&, rank] {
        Transformer& transformer = *stage.ranks[rank].transformer;
        auto output = transformer.forward(batch, hidden);
        if (!output.ok()) {
          errors[rank] = output.error();
          return;
        }
        if (!transformer.slice().is_last_stage()) {
          output = transformer.to_host(*output);
          if (!output.ok()) {
            errors[rank] = output.error();
          } else {
            outputs[rank] = *output;
          }
          return;
        }
        const std::size_t count = batch.logits_rows.size();
        auto rows = options_.device_logits ? fetch_device_logits(transformer, *stage.ranks[rank].kernels, *output,
                                                                 count, device_logits[rank])
                                           : transformer.logits(*output, 0, count);
        if (!rows.ok()) {
          errors[rank] = rows.error();
          return;
        }
        logits_of_rank[rank] = *rows;
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& error : errors) BOOST_REQUIRE_MESSAGE(!error, error->message);
    for (std::size_t rank = 1; rank < outputs.size(); ++rank) {
      BOOST_TEST(logits_of_rank[rank].rows == 0u);
      for (std::size_t row = 0; row < outputs[0].rows; ++row) {
        BOOST_REQUIRE(std::equal(outputs[0].row(row), outputs[0].row(row) + outputs[0].cols, outputs[rank].row(row)));
      }
    }
    hidden = outputs[0];
    const kernels::ConstMatrixF32& logits = logits_of_rank[0];
    for (std::size_t row = 0; row < logits.rows; ++row) {
      rows.emplace_back(logits.row(row), logits.row(row) + logits.cols);
    }
  }
  for (const StepPart& part : parts) part.sequence->computed += part.count;
  return rows;
}

std::vector<std::vector<float>> ThreadCluster::prefill(TestSequence& sequence, std::uint32_t chunk) {
  std::vector<std::vector<float>> rows;
  while (sequence.computed < sequence.tokens.size()) {
    const auto left = static_cast<std::uint32_t>(sequence.tokens.size()) - sequence.computed;
    for (auto& row : step({{&sequence, std::min(chunk, left), true}})) rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<std::uint32_t> ThreadCluster::greedy(const std::vector<std::uint32_t>& prompt, std::size_t count) {
  TestSequence sequence{prompt, 0, {}};
  std::vector<std::uint32_t> answer;
  auto next = static_cast<std::uint32_t>(prompt.size());
  while (answer.size() < count) {
    const auto rows = step({{&sequence, next, false}});
    answer.push_back(argmax(rows.back()));
    sequence.tokens.push_back(answer.back());
    next = 1;
  }
  release(sequence);
  return answer;
}

void ThreadCluster::replace_groups(const std::string& reason) {
  for (Stage& stage : stages_) {
    stage.group.front()->abort(reason);
    auto group = collective::make_in_process_group(options_.world_size);
    for (std::size_t rank = 0; rank < group.size(); ++rank) {
      group[rank] = suited(std::move(group[rank]), *stage.ranks[rank].kernels);
      stage.ranks[rank].transformer->set_communicator(*group[rank]);
    }
    stage.group = std::move(group);
  }
}

void ThreadCluster::release(TestSequence& sequence) {
  free_blocks_.insert(free_blocks_.end(), sequence.blocks.begin(), sequence.blocks.end());
  sequence.blocks.clear();
  sequence.computed = 0;
}

std::uint32_t argmax(const std::vector<float>& row) {
  return static_cast<std::uint32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

}  // namespace troupe::model::testing
