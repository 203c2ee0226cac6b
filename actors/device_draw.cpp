#include "actors/device_draw.h"

#include <limits>
#include <span>

namespace troupe {
namespace {

std::uint32_t size_of(const auto& list) { return static_cast<std::uint32_t>(list.size()); }

}  // namespace

void DeviceDraw::begin(const engine::ShardSequences& sequences) {
  std::vector<kernels::SamplingRow>& wanted = rows_[sent_ % rows_.size()];
  wanted.clear();
  history_.clear();
  bias_tokens_.clear();
  bias_values_.clear();
  masked_.clear();
  const std::size_t rows = sequences.flat().logits_rows.size();
  for (std::size_t row = 0; row < rows; ++row) add(sequences.row_to_draw(row), wanted);
  sampler_.begin({.rows = wanted,
                  .history = history_,
                  .bias_tokens = bias_tokens_,
                  .bias_values = bias_values_,
                  .masked = masked_});
}

// Lists go to the device only for rows whose parameters make use of them.
void DeviceDraw::add(const engine::RowToDraw& row, std::vector<kernels::SamplingRow>& rows) {
  const engine::SamplingParameters& parameters = *row.parameters;
  kernels::SamplingRow& to = rows.emplace_back();
  static_cast<DrawParameters&>(to) = parameters;
  to.position = size_of(row.history);
  to.logprobs = parameters.logprobs || !row.draws;
  to.top_logprobs = to.logprobs ? parameters.top_logprobs : 0;
  if (!row.draws) {
    to.given = row.token;
    return;
  }
  to.prompt_length = row.prompt_length;
  to.history[0] = size_of(history_);
  if (parameters.has_penalties()) history_.insert(history_.end(), row.history.begin(), row.history.end());
  to.history[1] = size_of(history_);
  to.biases[0] = size_of(bias_tokens_);
  for (const auto& [token, bias] : parameters.logit_bias) {
    bias_tokens_.push_back(token);
    bias_values_.push_back(bias);
  }
  to.biases[1] = size_of(bias_tokens_);
  to.masked[0] = size_of(masked_);
  if (row.history.size() - row.prompt_length < parameters.min_tokens) {
    masked_.insert(masked_.end(), parameters.stop_tokens.begin(), parameters.stop_tokens.end());
  }
  to.masked[1] = size_of(masked_);
}

void DeviceDraw::send() {
  sampler_.send();
  ++sent_;
}

void DeviceDraw::forget() {
  for (; finished_ < sent_; ++finished_) static_cast<void>(sampler_.take());
}

Result<void> DeviceDraw::finish(std::uint64_t step, engine::ShardSequences& sequences) {
  const std::vector<kernels::SamplingRow>& rows = rows_[finished_++ % rows_.size()];
  TROUPE_ASSIGN_OR_RETURN(const kernels::SampledRows sampled, sampler_.take());
  if (drawn_.size() < rows.size()) drawn_.resize(rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    engine::RatedToken& to = drawn_[row];
    const kernels::SamplingRow& wanted = rows[row];
    to.chosen = {.token = sampled.tokens[row],
                 .logprob = wanted.logprobs ? sampled.logprobs[row] : std::numeric_limits<float>::quiet_NaN()};
    to.top.clear();
    for (std::size_t i = 0; i < wanted.top_logprobs; ++i) {
      const std::size_t place = row * sampled.most_top_logprobs + i;
      if (sampled.top_tokens[place] == kernels::kNoToken) break;
      to.top.push_back({.token = sampled.top_tokens[place], .logprob = sampled.top_logprobs[place]});
    }
  }
  return sequences.take_drawn(step, std::span(drawn_).first(rows.size()));
}

}  // namespace troupe
