#include "runtime/model/moe.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace troupe::model {

Routing::Routing(const ModelConfig& config, std::uint32_t max_rows)
    : num_experts_(config.num_experts),
      per_token_(config.num_experts_per_token),
      normalise_(config.normalise_experts),
      choices_(std::size_t{max_rows} * per_token_),
      rows_(choices_.size()),
      weights_(choices_.size()),
      starts_(num_experts_ + 1),
      written_(num_experts_) {}

void Routing::choose(kernels::ConstMatrixF32 router_logits) {
  const std::size_t rows = router_logits.rows;
  assert(router_logits.cols == num_experts_ && rows * per_token_ <= choices_.size());
  std::fill(written_.begin(), written_.end(), 0);
  for (std::size_t row = 0; row < rows; ++row) {
    const auto choices = std::span(choices_).subspan(row * per_token_, per_token_);
    choose_for(router_logits.row(row), choices);
    for (const Choice& choice : choices) ++written_[choice.expert];
  }
  // A counting sort by expert, which leaves the rows of each in order.
  std::uint32_t start = 0;
  for (std::uint32_t expert = 0; expert < num_experts_; ++expert) {
    starts_[expert] = start;
    start += written_[expert];
    written_[expert] = starts_[expert];
  }
  starts_[num_experts_] = start;
  for (std::size_t i = 0; i < rows * per_token_; ++i) {
    const Choice& choice = choices_[i];
    const std::uint32_t place = written_[choice.expert]++;
    rows_[place] = static_cast<std::uint32_t>(i / per_token_);
    weights_[place] = choice.weight;
  }
}

// choices: (num_experts_per_token), the largest first. Insertion, as comparing is all that is safe with what may not be
// a number.
void Routing::choose_for(const float* logits, std::span<Choice> choices) const {
  std::size_t chosen = 0;
  for (std::uint32_t expert = 0; expert < num_experts_; ++expert) {
    if (chosen == choices.size() && !(logits[expert] > choices[chosen - 1].weight)) continue;
    std::size_t place = chosen == choices.size() ? chosen - 1 : chosen++;
    for (; place > 0 && logits[expert] > choices[place - 1].weight; --place) choices[place] = choices[place - 1];
    choices[place] = {expert, logits[expert]};
  }
  const float largest = choices.front().weight;
  const auto exponential = [&](float logit) { return std::exp(double{logit} - largest); };
  double sum = 0;
  if (normalise_) {
    for (const Choice& choice : choices) sum += exponential(choice.weight);
  } else {
    for (std::uint32_t expert = 0; expert < num_experts_; ++expert) sum += exponential(logits[expert]);
  }
  for (Choice& choice : choices) choice.weight = static_cast<float>(exponential(choice.weight) / sum);
}

}  // namespace troupe::model
