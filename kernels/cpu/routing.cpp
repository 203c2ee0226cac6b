#include "kernels/cpu/routing.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace troupe::kernels {

void Routing::choose(ConstMatrixF32 router_logits, const MixtureShape& shape) {
  const std::size_t rows = router_logits.rows, num_experts = router_logits.cols, per_token = shape.experts_per_token;
  assert(per_token >= 1 && per_token <= num_experts);
  choices_.resize(rows * per_token);
  rows_.resize(choices_.size());
  weights_.resize(choices_.size());
  starts_.resize(num_experts + 1);
  written_.assign(num_experts, 0);
  for (std::size_t row = 0; row < rows; ++row) {
    const auto choices = std::span(choices_).subspan(row * per_token, per_token);
    choose_for({router_logits.row(row), num_experts}, shape.normalise, choices);
    for (const Choice& choice : choices) ++written_[choice.expert];
  }
  // A counting sort by expert, which leaves the rows of each in order.
  std::uint32_t start = 0;
  for (std::size_t expert = 0; expert < num_experts; ++expert) {
    starts_[expert] = start;
    start += written_[expert];
    written_[expert] = starts_[expert];
  }
  starts_[num_experts] = start;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    const std::uint32_t place = written_[choice.expert]++;
    rows_[place] = static_cast<std::uint32_t>(i / per_token);
    weights_[place] = choice.weight;
  }
}

// choices: (experts_per_token), the largest first. Insertion, as comparing is all that is safe with what may not be a
// number.
void Routing::choose_for(std::span<const float> logits, bool normalise, std::span<Choice> choices) {
  std::size_t chosen = 0;
  for (std::size_t expert = 0; expert < logits.size(); ++expert) {
    if (chosen == choices.size() && !(logits[expert] > choices[chosen - 1].weight)) continue;
    std::size_t place = chosen == choices.size() ? chosen - 1 : chosen++;
    for (; place > 0 && logits[expert] > choices[place - 1].weight; --place) choices[place] = choices[place - 1];
    choices[place] = {static_cast<std::uint32_t>(expert), logits[expert]};
  }
  const float largest = choices.front().weight;
  const auto exponential = [&](float logit) { return std::exp(double{logit} - largest); };
  double sum = 0;
  if (normalise) {
    for (const Choice& choice : choices) sum += exponential(choice.weight);
  } else {
    for (const float logit : logits) sum += exponential(logit);
  }
  for (Choice& choice : choices) choice.weight = static_cast<float>(exponential(choice.weight) / sum);
}

}  // namespace troupe::kernels
