#include "tests/bench/gpu_bench/random_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace troupe::bench {
namespace {

using namespace kernels;

// Left for activations and the workspaces of kernels.
constexpr std::uint64_t kReservedBytes = std::uint64_t{3} << 30;
constexpr float kEps = 1e-5f;

std::size_t kv_width(const Shape& shape) { return shape.kv_heads * shape.head_dim; }
std::size_t num_mlps(const Shape& shape) { return std::max<std::size_t>(1, shape.experts); }
std::size_t blocks_of(std::size_t context) { return (context + kBlockSize - 1) / kBlockSize; }

// Bytes of a block of BF16 keys and values of every layer.
std::uint64_t block_bytes(const Shape& shape) {
  return 2 * std::uint64_t{shape.layers} * kBlockSize * kv_width(shape) * sizeof(std::uint16_t);
}

std::uint64_t free_bytes(Bench& bench) { return must(bench.memory().room(), "the device's memory").free_bytes; }

std::uint64_t packed_bytes(const Kernels& kernels, const Shape& shape, DType dtype) {
  const auto of = [&](std::size_t rows, std::size_t cols) { return kernels.packed_bytes(dtype, rows, cols); };
  const std::size_t heads = shape.heads * shape.head_dim;
  const std::uint64_t mlp = 2 * of(shape.intermediate, shape.hidden) + of(shape.hidden, shape.intermediate);
  const std::uint64_t layer = of(heads, shape.hidden) + 2 * of(kv_width(shape), shape.hidden) +
                              of(shape.hidden, heads) + of(shape.experts, shape.hidden) + num_mlps(shape) * mlp;
  return shape.layers * layer + of(shape.vocab, shape.hidden);
}

std::size_t most_blocks(const Shape& shape) {
  std::size_t most = shape.attention.batch * blocks_of(shape.attention.context);
  for (const Decode& decode : shape.decodes) most = std::max(most, decode.batch * blocks_of(decode.context));
  for (const std::size_t prompt : shape.prompts) most = std::max(most, blocks_of(prompt));
  return most;
}

double elements_of(const PackedWeight& weight) {
  return static_cast<double>(weight.rows()) * static_cast<double>(weight.cols());
}

}  // namespace

BatchLists::BatchLists(std::size_t sequences, std::size_t rows, std::size_t context) : row_starts{0}, table_starts{0} {
  const std::size_t blocks = blocks_of(context);
  for (std::size_t sequence = 0; sequence < sequences; ++sequence) {
    const std::size_t first_block = sequence * blocks;
    for (std::size_t position = context - rows; position < context; ++position) {
      positions.push_back(static_cast<std::uint32_t>(position));
      slots.push_back(static_cast<std::uint32_t>(first_block * kBlockSize + position));
    }
    for (std::size_t i = 0; i < blocks; ++i) tables.push_back(static_cast<std::uint32_t>(first_block + i));
    row_starts.push_back(static_cast<std::uint32_t>(positions.size()));
    last_rows.push_back(row_starts.back() - 1);
    lengths.push_back(static_cast<std::uint32_t>(context));
    table_starts.push_back(static_cast<std::uint32_t>(tables.size()));
  }
}

StepLists BatchLists::step(std::span<const AttentionShape> shapes) const {
  return {.positions = positions,
          .slots = slots,
          .attention = {row_starts, lengths, tables, table_starts},
          .shapes = shapes,
          .logits_rows = last_rows};
}

bool RandomModel::fits(Bench& bench, const Shape& shape, DType dtype) {
  const std::uint64_t pages = blocks_of(shape.prompts.front()) * block_bytes(shape);
  return packed_bytes(bench.kernels(), shape, dtype) + pages + kReservedBytes <= free_bytes(bench);
}

RandomModel::RandomModel(Bench& bench, const Shape& shape, DType dtype)
    : bench_(bench), scope_(bench), shape_(shape), dtype_(dtype) {
  const std::size_t heads = shape.heads * shape.head_dim;
  for (std::size_t index = 0; index < shape.layers; ++index) {
    Layer layer;
    layer.query = bench.random_weight(heads, shape.hidden, dtype, shape.head_dim);
    layer.key = bench.random_weight(kv_width(shape), shape.hidden, dtype, shape.head_dim);
    layer.value = bench.random_weight(kv_width(shape), shape.hidden, dtype, shape.head_dim);
    layer.output = bench.random_weight(shape.hidden, heads, dtype);
    if (shape.experts > 0) layer.router = bench.random_weight(shape.experts, shape.hidden, dtype);
    for (std::size_t i = 0; i < num_mlps(shape); ++i) layer.mlps.push_back(make_mlp());
    for (const Weight* weight : {&layer.query, &layer.key, &layer.value, &layer.output, &layer.router}) {
      if (*weight == nullptr) continue;
      bytes_ += static_cast<double>((*weight)->bytes());
      elements_ += elements_of(**weight);
    }
    for (const Mlp& mlp : layer.mlps) {
      for (const Weight* weight : {&mlp.gate, &mlp.up, &mlp.down}) {
        (shape.experts > 0 ? expert_bytes_ : bytes_) += static_cast<double>((*weight)->bytes());
        if (shape.experts == 0) elements_ += elements_of(**weight);
      }
    }
    const Mlp& one = layer.mlps.front();
    expert_elements_ += static_cast<double>(shape.experts_per_token) *
                        (elements_of(*one.gate) + elements_of(*one.up) + elements_of(*one.down));
    if (shape.experts > 0) {
      std::vector<ExpertWeights> experts;
      for (const Mlp& mlp : layer.mlps) experts.push_back({mlp.gate.get(), mlp.up.get(), mlp.down.get()});
      layer.mixture = must(bench.kernels().make_mixture(experts, {shape.experts_per_token, true}), "experts");
    }
    layers_.push_back(std::move(layer));
  }
  lm_head_ = bench.random_weight(shape.vocab, shape.hidden, dtype);
  bytes_ += static_cast<double>(lm_head_->bytes());
  lm_head_elements_ = elements_of(*lm_head_);
  bench.forget_weights();
  norm_ = {bench.random_floats(1, shape.hidden).data, shape.hidden};
  std::vector<float> frequencies;
  for (std::size_t i = 0; i < shape.head_dim / 2; ++i) {
    frequencies.push_back(std::pow(500'000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(shape.head_dim)));
  }
  auto* const there = static_cast<float*>(bench.take(frequencies.size() * sizeof(float)));
  bench.memory().upload(there, frequencies.data(), frequencies.size() * sizeof(float));
  inverse_frequencies_ = {there, frequencies.size()};
  num_blocks_ = std::min<std::size_t>(most_blocks(shape), (free_bytes(bench) - kReservedBytes) / block_bytes(shape));
  for (Layer& layer : layers_) {
    const std::size_t halves = num_blocks_ * kBlockSize * kv_width(shape);
    layer.kv = {.keys = bench.random_halves(halves),
                .values = bench.random_halves(halves),
                .dtype = DType::kBF16,
                .num_blocks = num_blocks_,
                .block_size = kBlockSize,
                .num_kv_heads = shape.kv_heads,
                .head_dim = shape.head_dim};
  }
}

RandomModel::Mlp RandomModel::make_mlp() {
  return {bench_.random_weight(shape_.intermediate, shape_.hidden, dtype_),
          bench_.random_weight(shape_.intermediate, shape_.hidden, dtype_),
          bench_.random_weight(shape_.hidden, shape_.intermediate, dtype_)};
}

bool RandomModel::has_pages_for(std::size_t sequences, std::size_t context) const {
  return sequences * blocks_of(context) <= num_blocks_;
}

double RandomModel::weight_bytes(std::size_t tokens) const {
  if (shape_.experts == 0) return bytes_;
  const double missed = 1 - static_cast<double>(shape_.experts_per_token) / static_cast<double>(shape_.experts);
  return bytes_ + expert_bytes_ * (1 - std::pow(missed, static_cast<double>(tokens)));
}

double RandomModel::kv_bytes_per_token() const {
  return static_cast<double>(block_bytes(shape_)) / static_cast<double>(kBlockSize);
}

AttentionShape RandomModel::attention_shape() const {
  return {shape_.heads, shape_.kv_heads, shape_.head_dim, 1 / std::sqrt(static_cast<float>(shape_.head_dim)), 0};
}

RandomModel::Activations RandomModel::make_activations(std::size_t rows, std::size_t logits_rows) {
  const auto of = [&](std::size_t cols) { return bench_.random_floats(rows, cols); };
  Activations a = {.hidden = of(shape_.hidden),
                   .normed = of(shape_.hidden),
                   .partial = of(shape_.hidden),
                   .queries = of(shape_.heads * shape_.head_dim),
                   .attended = of(shape_.heads * shape_.head_dim),
                   .last = bench_.random_floats(logits_rows, shape_.hidden),
                   .logits = bench_.random_floats(logits_rows, shape_.vocab)};
  if (shape_.experts == 0) {
    a.gated = of(shape_.intermediate);
    return a;
  }
  a.router_logits = of(shape_.experts);
  const std::size_t choices = rows * shape_.experts_per_token;
  a.mixture.gated = bench_.random_floats(choices, shape_.intermediate);
  a.mixture.out = bench_.random_floats(choices, shape_.hidden);
  return a;
}

RandomModel::Activations RandomModel::Activations::first_rows(const StepRows& rows) const {
  Activations a = *this;
  for (MatrixF32* matrix : {&a.hidden, &a.normed, &a.partial, &a.queries, &a.attended, &a.gated, &a.router_logits}) {
    if (matrix->data != nullptr) *matrix = matrix->rows_from(0, rows.rows);
  }
  for (MatrixF32* matrix : {&a.last, &a.logits}) *matrix = matrix->rows_from(0, rows.logits_rows);
  return a;
}

// As Transformer does it.
void RandomModel::run(const Layer& layer, const Activations& a) {
  Kernels& kernels = bench_.kernels();
  kernels.project_qkv(a.normed, {{layer.query.get()}, {layer.key.get()}, {layer.value.get()}, {}, {}, 0},
                      {inverse_frequencies_}, a.queries, layer.kv);
  kernels.attention(a.queries, layer.kv, 0, a.attended);
  kernels.linear(a.attended, {layer.output.get()}, a.partial);
  kernels.add_rms_norm(a.partial, a.hidden, norm_, kEps, a.normed);
  if (layer.mixture != nullptr) {
    kernels.linear(a.normed, {layer.router.get()}, a.router_logits);
    bench_.memory().clear(a.partial.data, a.partial.rows * a.partial.cols * sizeof(float));
    kernels.mix(a.normed, a.router_logits, *layer.mixture, a.mixture, a.partial);
  } else {
    const Mlp& mlp = layer.mlps.front();
    kernels.swiglu(a.normed, {mlp.gate.get()}, {mlp.up.get()}, a.gated);
    kernels.linear(a.gated, {mlp.down.get()}, a.partial);
  }
  kernels.add_rms_norm(a.partial, a.hidden, norm_, kEps, a.normed);
}

StepTime RandomModel::step_time(std::size_t sequences, std::size_t rows, std::size_t context) {
  const Bench::Scope scope(bench_);
  Kernels& kernels = bench_.kernels();
  kernels.forget_repeated();
  const BatchLists lists(sequences, rows, context);
  const AttentionShape shapes[] = {attention_shape()};
  StepLists step = lists.step(shapes);
  step.max_rows = std::bit_ceil(sequences * rows);
  step.max_logits_rows = std::bit_ceil(sequences);
  const Activations all = make_activations(step.max_rows, step.max_logits_rows);
  return bench_.time_of_step([&] {
    const Activations a = all.first_rows(kernels.begin_step(step));
    must(kernels.repeat({StepPart::Kind::kLayers},
                        [&]() -> Result<void> {
                          kernels.rms_norm(a.hidden, norm_, kEps, a.normed);
                          for (const Layer& layer : layers_) run(layer, a);
                          return {};
                        }),
         "layers");
    must(kernels.repeat({StepPart::Kind::kLogits},
                        [&]() -> Result<void> {
                          kernels.gather_logits_rows(a.normed, 0, a.last);
                          kernels.linear(a.last, {lm_head_.get()}, a.logits);
                          return {};
                        }),
         "logits");
  });
}

double RandomModel::attention_seconds(std::size_t sequences, std::size_t context) {
  const Bench::Scope scope(bench_);
  const BatchLists lists(sequences, 1, context);
  const MatrixF32 queries = bench_.random_floats(sequences, shape_.heads * shape_.head_dim);
  const MatrixF32 attended = bench_.random_floats(sequences, shape_.heads * shape_.head_dim);
  const AttentionShape shapes[] = {attention_shape()};
  bench_.kernels().begin_step(lists.step(shapes));
  // Layer after layer, so that no cache holds the pages of the one before.
  const double all = bench_.seconds_of(
      [&] {
        for (const Layer& layer : layers_) bench_.kernels().attention(queries, layer.kv, 0, attended);
      },
      3);
  return all / static_cast<double>(layers_.size());
}

}  // namespace troupe::bench
