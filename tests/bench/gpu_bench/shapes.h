#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace troupe::bench {

// One step in which each sequence gets one token.
struct Decode {
  std::size_t batch;
  std::size_t context;  // tokens of each sequence
};

// A model's shape and what is measured of it.
struct Shape {
  std::string_view name;
  std::size_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab;
  std::size_t experts, experts_per_token;  // 0 = dense; intermediate is then that of an expert
  std::vector<Decode> decodes;
  std::vector<std::size_t> prompts;  // tokens
  Decode attention;                  // alone
};

// Llama 3.2 1B, Llama 3.1 8B and Qwen3-30B-A3B.
inline const std::vector<Shape>& shapes() {
  static const std::vector<Decode> kDecodes = {{1, 1024}, {8, 1024}, {64, 1024}, {256, 1024}, {64, 2048}};
  static const std::vector<std::size_t> kPrompts = {512, 2048, 8192};
  static const std::vector<Shape> kShapes = {
      {"1b", 16, 2048, 8192, 32, 8, 64, 128'256, 0, 0, kDecodes, kPrompts, {32, 8192}},
      {"8b", 32, 4096, 14'336, 32, 8, 128, 128'256, 0, 0, kDecodes, kPrompts, {32, 8192}},
      {"moe", 48, 2048, 768, 32, 4, 128, 151'936, 128, 8, kDecodes, kPrompts, {32, 8192}},
  };
  return kShapes;
}

// For an emulated GPU.
inline const std::vector<Shape>& tiny_shapes() {
  static const std::vector<Shape> kShapes = {
      {"tiny", 2, 64, 128, 4, 2, 32, 256, 0, 0, {{1, 20}, {3, 20}}, {24}, {3, 40}},
      {"tinymoe", 1, 64, 32, 4, 2, 32, 256, 8, 2, {{1, 20}, {3, 20}}, {24}, {3, 40}},
  };
  return kShapes;
}

}  // namespace troupe::bench
