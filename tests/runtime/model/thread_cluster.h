#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/collective/communicator.h"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/local_experts.h"

namespace troupe::model::testing {

// A sequence as a scheduler would keep it: its blocks lie scattered over the pages.
struct TestSequence {
  std::vector<std::uint32_t> tokens;
  std::uint32_t computed = 0;  // tokens whose K and V are in the pages
  std::vector<std::uint32_t> blocks;
};

// One row of a step and what to take from it.
struct StepPart {
  TestSequence* sequence;
  std::uint32_t count;  // of its next tokens
  bool all_logits;      // of every row, else of the last one
};

// The shards of one model as threads: stages cut at `cuts`, each of world_size ranks with a group of their own.
class ThreadCluster {
 public:
  struct Options {
    std::vector<std::uint32_t> cuts;  // first layers of the stages after the first
    std::uint32_t world_size = 1;
    std::uint32_t expert_shards = 0;  // of each stage that has layers with experts
    // Of CPU kernels, "gpu" for those of cuda:0, or "guarded" (guarded_kernels.h). Groups are staged where the device
    // is not the host.
    std::string implementation = "reference";
    std::function<std::unique_ptr<kernels::Kernels>()> make_kernels;  // instead of these, if there is one
    std::string expert_implementation;  // the same of expert shards, where it is not that of the ranks
    // Instead of staging.
    std::function<std::unique_ptr<collective::Communicator>(std::unique_ptr<collective::Communicator>,
                                                            kernels::Kernels&)>
        suit_group;
    bool device_logits = false;  // are what a step gives, fetched from the device
    TransformerOptions transformer = {
        .num_blocks = 64, .block_size = 4, .max_batch_tokens = 64, .max_batch_sequences = 8, .max_logits_rows = 64};
  };

  // Fails the test when the model does not load.
  ThreadCluster(const std::filesystem::path& model_directory, const ModelConfig& config, const Options& options);

  // One step through all stages; the logits rows in batch order.
  std::vector<std::vector<float>> step(const std::vector<StepPart>& parts);

  // Logits of every token of a prompt, computed in pieces of `chunk` tokens.
  std::vector<std::vector<float>> prefill(TestSequence& sequence, std::uint32_t chunk = 64);

  // Greedy continuation of a prompt.
  std::vector<std::uint32_t> greedy(const std::vector<std::uint32_t>& prompt, std::size_t count);

  // Aborts every group and gives the shards new ones, as after a lost member.
  void replace_groups(const std::string& reason);

  void release(TestSequence& sequence);

  // Of a rank of a stage that has expert shards.
  LocalExperts& experts(std::size_t stage, std::size_t rank) { return *stages_.at(stage).ranks.at(rank).experts; }
  const Transformer& transformer(std::size_t stage, std::size_t rank) const {
    return *stages_.at(stage).ranks.at(rank).transformer;
  }

 private:
  struct Rank {
    std::unique_ptr<kernels::Kernels> kernels;
    std::unique_ptr<LocalExperts> experts;  // null: the rank has them
    std::unique_ptr<Transformer> transformer;
  };
  struct Stage {
    std::vector<Rank> ranks;                                       // (world_size)
    std::vector<std::unique_ptr<collective::Communicator>> group;  // (world_size); may use the kernels' memory
  };

  std::unique_ptr<kernels::Kernels> make_kernels() const;
  std::unique_ptr<kernels::Kernels> make_kernels(const std::string& implementation) const;
  std::unique_ptr<collective::Communicator> suited(std::unique_ptr<collective::Communicator> group,
                                                   kernels::Kernels& kernels) const;

  Options options_;
  std::vector<Stage> stages_;
  std::vector<std::uint32_t> free_blocks_;
};

std::uint32_t argmax(const std::vector<float>& row);

}  // namespace troupe::model::testing
