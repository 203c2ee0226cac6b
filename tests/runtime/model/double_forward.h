#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model/config.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {

// Logits of every token of a sequence in double precision, straight from the formulas: no kernels, no pages, no
// slices. What the transformer is compared with.
std::vector<std::vector<double>> double_forward(const ModelConfig& config, const TinyTensors& tensors,
                                                const std::vector<std::uint32_t>& tokens);

}  // namespace troupe::model::testing
