#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/tensor.h"
#include "runtime/model/config.h"

namespace troupe::model {

// Which experts the rows of a step go to, and with what weight: those with the largest router logits, weighed by the
// softmax of these (Shazeer et al. 2017). A row's experts depend on nothing but its own logits. Takes no memory after
// it is made.
class Routing {
 public:
  struct Routed {
    std::span<const std::uint32_t> rows;  // ascending
    std::span<const float> weights;       // one a row
  };

  Routing(const ModelConfig& config, std::uint32_t max_rows);

  // router_logits: (rows, num_experts), at most max_rows. Of equal logits, the lower expert is chosen first; logits
  // that are not numbers still choose as many experts, with weights that are not numbers.
  void choose(kernels::ConstMatrixF32 router_logits);

  // The rows that the latest choose() sent to an expert.
  Routed of(std::uint32_t expert) const {
    const std::size_t first = starts_[expert], count = starts_[expert + 1] - first;
    return {std::span(rows_).subspan(first, count), std::span(weights_).subspan(first, count)};
  }

 private:
  struct Choice {
    std::uint32_t expert;
    float weight;
  };
  void choose_for(const float* logits, std::span<Choice> choices) const;

  std::uint32_t num_experts_;
  std::uint32_t per_token_;
  bool normalise_;
  std::vector<Choice> choices_;         // (max_rows, num_experts_per_token)
  std::vector<std::uint32_t> rows_;     // the same, by expert
  std::vector<float> weights_;          // of these
  std::vector<std::uint32_t> starts_;   // (num_experts + 1) into rows_
  std::vector<std::uint32_t> written_;  // (num_experts): how far each expert's part is filled
};

}  // namespace troupe::model
