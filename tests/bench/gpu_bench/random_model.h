#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tests/bench/gpu_bench/bench.h"
#include "tests/bench/gpu_bench/shapes.h"

namespace troupe::bench {

constexpr std::size_t kBlockSize = 16;

// Sequences of one length, each in blocks of its own: `rows` new tokens of each, at the end of its context.
struct BatchLists {
  BatchLists(std::size_t sequences, std::size_t rows, std::size_t context);
  // shapes: one.
  kernels::StepLists step(std::span<const kernels::AttentionShape> shapes) const;

  std::vector<std::uint32_t> positions, slots;                           // (sequences * rows)
  std::vector<std::uint32_t> last_rows;                                  // (sequences)
  std::vector<std::uint32_t> row_starts, lengths, tables, table_starts;  // as AttentionBatch has them
};

// A model of a shape with random weights and random pages: what of a step takes time.
class RandomModel {
 public:
  // Whether the device has room for its weights, and pages for one sequence at least.
  static bool fits(Bench& bench, const Shape& shape, kernels::DType dtype);
  RandomModel(Bench& bench, const Shape& shape, kernels::DType dtype);

  bool has_pages_for(std::size_t sequences, std::size_t context) const;

  // Of `sequences` that get `rows` tokens each at the end of `context`, and logits of the last one of each.
  StepTime step_time(std::size_t sequences, std::size_t rows, std::size_t context);
  // Of attention of one layer alone: one token of each sequence. REQUIRES: has_pages_for(sequences, context)
  double attention_seconds(std::size_t sequences, std::size_t context);

  // Bytes of weights that a step of so many tokens reads: of the experts, those that an even choice would meet.
  double weight_bytes(std::size_t tokens) const;
  // Elements of weights that a token is multiplied with; those of lm_head are apart.
  double elements_per_token() const { return elements_ + expert_elements_; }
  double lm_head_elements() const { return lm_head_elements_; }
  // Of keys and values of a token, in all layers.
  double kv_bytes_per_token() const;

 private:
  using Weight = std::unique_ptr<kernels::PackedWeight>;

  struct Mlp {
    Weight gate, up, down;
  };
  struct Layer {
    Weight query, key, value, output, router;
    std::vector<Mlp> mlps;                      // one, or one an expert
    std::unique_ptr<kernels::Mixture> mixture;  // of experts
    kernels::PagedKv kv;
  };
  // Activations of a step.
  struct Activations {
    kernels::MatrixF32 hidden, normed, partial, queries, attended, gated, router_logits;
    kernels::MixtureScratch mixture;
    kernels::MatrixF32 last, logits;

    // Those that a step needs; what is of the mixture stays.
    Activations first_rows(const kernels::StepRows& rows) const;
  };

  Mlp make_mlp();
  Activations make_activations(std::size_t rows, std::size_t logits_rows);
  void run(const Layer& layer, const Activations& a);
  kernels::AttentionShape attention_shape() const;

  Bench& bench_;
  Bench::Scope scope_;
  const Shape& shape_;
  const kernels::DType dtype_;
  std::size_t num_blocks_ = 0;
  std::vector<Layer> layers_;
  Weight lm_head_;
  std::span<const float> norm_;  // one for all layers
  std::span<const float> inverse_frequencies_;
  double bytes_ = 0, expert_bytes_ = 0;        // of all experts
  double elements_ = 0, expert_elements_ = 0;  // that one token needs
  double lm_head_elements_ = 0;
};

}  // namespace troupe::bench
