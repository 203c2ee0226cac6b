#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace troupe::kernels {

// Which experts the rows of a step go to, and with what weight: those with the largest router logits, weighed by the
// softmax of these (Shazeer et al. 2017). A row's experts depend on nothing but its own logits. Its memory grows to the
// largest step and is kept.
class Routing {
 public:
  struct Routed {
    std::span<const std::uint32_t> rows;  // ascending
    std::span<const float> weights;       // one a row
  };

  // router_logits: (rows, num_experts). Of equal logits, the lower expert is chosen first; logits that are not numbers
  // still choose as many experts, with weights that are not numbers.
  void choose(ConstMatrixF32 router_logits, const MixtureShape& shape);

  // The rows that the latest choose() sent to an expert.
  Routed of(std::size_t expert) const {
    const std::size_t first = starts_[expert], count = starts_[expert + 1] - first;
    return {std::span(rows_).subspan(first, count), std::span(weights_).subspan(first, count)};
  }

 private:
  struct Choice {
    std::uint32_t expert;
    float weight;
  };
  static void choose_for(std::span<const float> logits, bool normalise, std::span<Choice> choices);

  std::vector<Choice> choices_;         // (rows, experts_per_token)
  std::vector<std::uint32_t> rows_;     // the same, by expert
  std::vector<float> weights_;          // of these
  std::vector<std::uint32_t> starts_;   // (num_experts + 1) into rows_
  std::vector<std::uint32_t> written_;  // (num_experts): how far each expert's part is filled
};

}  // namespace troupe::kernels
