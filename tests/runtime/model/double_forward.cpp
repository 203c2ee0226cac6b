#include "tests/runtime/model/double_forward.h"

#include <algorithm>
#include <cmath>
#include <complex>

namespace troupe::model::testing {
namespace {

using Vector = std::vector<double>;

class Forward {
 public:
  Forward(const ModelConfig& config, const TinyTensors& tensors) : config_(config), tensors_(tensors) {}

  std::vector<Vector> logits(const std::vector<std::uint32_t>& tokens) {
    const TinyTensor& table = tensors_.at("model.embed_tokens.weight");
    std::vector<Vector> hidden;
    for (const std::uint32_t token : tokens) {
      const auto row = table.values.begin() + static_cast<std::ptrdiff_t>(std::size_t{token} * config_.hidden_size);
      hidden.emplace_back(row, row + config_.hidden_size);
    }
    for (std::uint32_t index = 0; index < config_.num_layers; ++index) layer(index, hidden);
    std::vector<Vector> out;
    for (const Vector& row : hidden) {
      out.push_back(linear(config_.tie_word_embeddings ? "model.embed_tokens" : "lm_head", norm("model.norm", row)));
    }
    return out;
  }

 private:
  void layer(std::uint32_t index, std::vector<Vector>& hidden) {
    const std::string prefix = "model.layers." + std::to_string(index);
    std::vector<Vector> queries, keys, values;
    for (std::size_t position = 0; position < hidden.size(); ++position) {
      const Vector normed = norm(prefix + ".input_layernorm", hidden[position]);
      queries.push_back(rotated(prefix, "q", normed, position));
      keys.push_back(rotated(prefix, "k", normed, position));
      values.push_back(linear(prefix + ".self_attn.v_proj", normed));
    }
    for (std::size_t position = 0; position < hidden.size(); ++position) {
      const Vector attended = attend(queries[position], keys, values, position, config_.sliding_windows[index]);
      add(linear(prefix + ".self_attn.o_proj", attended), hidden[position]);
      const Vector normed = norm(prefix + ".post_attention_layernorm", hidden[position]);
      add(config_.num_experts == 0 ? mlp(prefix + ".mlp", normed) : experts(prefix + ".mlp", normed), hidden[position]);
    }
  }

  Vector mlp(const std::string& prefix, const Vector& in) const {
    Vector gate = linear(prefix + ".gate_proj", in);
    const Vector up = linear(prefix + ".up_proj", in);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return linear(prefix + ".down_proj", gate);
  }

  // Softmax over all experts, the largest kept, and their weights brought to a sum of 1 where the model does that.
  Vector experts(const std::string& prefix, const Vector& in) const {
    Vector weights = linear(prefix + ".gate", in);
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight);
    for (double& weight : weights) weight /= sum;
    Vector sorted = weights;
    std::sort(sorted.rbegin(), sorted.rend());
    double kept = 0;
    for (std::uint32_t i = 0; i < config_.num_experts_per_token; ++i) kept += sorted[i];
    Vector out(in.size(), 0.0);
    for (std::size_t expert = 0; expert < weights.size(); ++expert) {
      if (weights[expert] < sorted[config_.num_experts_per_token - 1]) continue;
      const double weight = config_.normalise_experts ? weights[expert] / kept : weights[expert];
      const Vector part = mlp(prefix + ".experts." + std::to_string(expert), in);
      for (std::size_t i = 0; i < out.size(); ++i) out[i] += weight * part[i];
    }
    if (config_.shared_intermediate_size == 0) return out;
    const TinyTensor& gate = tensors_.at(prefix + ".shared_expert_gate.weight");
    double dot = 0;
    for (std::size_t i = 0; i < in.size(); ++i) dot += in[i] * gate.values[i];
    const Vector shared = mlp(prefix + ".shared_expert", in);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += shared[i] / (1 + std::exp(-dot));
    return out;
  }

  // Projected, normed by head where the architecture does, and rotated as complex numbers (x[i], x[i + dim / 2]).
  Vector rotated(const std::string& prefix, const std::string& which, const Vector& in, std::size_t position) {
    Vector out = linear(prefix + ".self_attn." + which + "_proj", in);
    const std::size_t dim = config_.head_dim;
    const auto frequencies = inverse_frequencies(config_);
    for (std::size_t first = 0; first < out.size(); first += dim) {
      Vector head(out.begin() + static_cast<std::ptrdiff_t>(first),
                  out.begin() + static_cast<std::ptrdiff_t>(first + dim));
      if (config_.qk_norm) head = norm(prefix + ".self_attn." + which + "_norm", head);
      for (std::size_t i = 0; i < dim / 2; ++i) {
        const auto turned = std::complex(head[i], head[i + dim / 2]) *
                            std::polar(1.0, static_cast<double>(position) * double{frequencies[i]});
        out[first + i] = turned.real();
        out[first + i + dim / 2] = turned.imag();
      }
    }
    return out;
  }

  Vector attend(const Vector& query, const std::vector<Vector>& keys, const std::vector<Vector>& values,
                std::size_t position, std::size_t window) const {
    const std::size_t dim = config_.head_dim;
    const std::size_t begin = window != 0 && position + 1 > window ? position + 1 - window : 0;
    Vector out(query.size(), 0.0);
    for (std::size_t head = 0; head < config_.num_heads; ++head) {
      const std::size_t kv_first = head / (config_.num_heads / config_.num_kv_heads) * dim;
      double sum = 0;
      for (std::size_t past = begin; past <= position; ++past) {
        double score = 0;
        for (std::size_t i = 0; i < dim; ++i) score += query[head * dim + i] * keys[past][kv_first + i];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(dim)));
        sum += weight;
        for (std::size_t i = 0; i < dim; ++i) out[head * dim + i] += weight * values[past][kv_first + i];
      }
      for (std::size_t i = 0; i < dim; ++i) out[head * dim + i] /= sum;
    }
    return out;
  }

  Vector norm(const std::string& name, const Vector& in) const {
    const TinyTensor& weight = tensors_.at(name + ".weight");
    double squares = 0;
    for (const double x : in) squares += x * x;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(in.size()) + config_.rms_norm_eps);
    Vector out;
    for (std::size_t i = 0; i < in.size(); ++i) out.push_back(in[i] * factor * weight.values[i]);
    return out;
  }

  Vector linear(const std::string& name, const Vector& in) const {
    const TinyTensor& weight = tensors_.at(name + ".weight");
    const auto bias = tensors_.find(name + ".bias");
    Vector out;
    for (std::size_t row = 0; row < weight.shape[0]; ++row) {
      double sum = bias == tensors_.end() ? 0.0 : bias->second.values[row];
      for (std::size_t col = 0; col < in.size(); ++col) sum += in[col] * weight.values[row * in.size() + col];
      out.push_back(sum);
    }
    return out;
  }

  static void add(const Vector& addend, Vector& sum) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += addend[i];
  }

  const ModelConfig& config_;
  const TinyTensors& tensors_;
};

}  // namespace

std::vector<std::vector<double>> double_forward(const ModelConfig& config, const TinyTensors& tensors,
                                                const std::vector<std::uint32_t>& tokens) {
  return Forward(config, tensors).logits(tokens);
}

}  // namespace troupe::model::testing
