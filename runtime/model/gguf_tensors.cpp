#include "runtime/model/gguf_tensors.h"

#include <cassert>
#include <utility>

#include "runtime/model/shape.h"

namespace troupe::model {
namespace {

constexpr std::uint32_t kStackedRank = 3;  // experts, rows, columns

Error is_missing(const GgufFile& file, const std::string& name) {
  return corrupt_data(file.place() + ": tensor '" + name + "' is missing; the architecture calls for it");
}

std::string place_of(const GgufFile& file, const GgufTensor& tensor) {
  return file.place() + ": tensor '" + std::string(tensor.name) + "' at offset " + std::to_string(tensor.begin);
}

}  // namespace

std::string gguf_name(TensorRole role, std::uint32_t layer, bool tied) {
  const auto of_layer = [layer](std::string_view name) {
    return "blk." + std::to_string(layer) + "." + std::string(name);
  };
  switch (role) {
    case TensorRole::kEmbedding: return "token_embd.weight";
    case TensorRole::kAttentionNorm: return of_layer("attn_norm.weight");
    case TensorRole::kQuery: return of_layer("attn_q.weight");
    case TensorRole::kQueryBias: return of_layer("attn_q.bias");
    case TensorRole::kKey: return of_layer("attn_k.weight");
    case TensorRole::kKeyBias: return of_layer("attn_k.bias");
    case TensorRole::kValue: return of_layer("attn_v.weight");
    case TensorRole::kValueBias: return of_layer("attn_v.bias");
    case TensorRole::kQueryNorm: return of_layer("attn_q_norm.weight");
    case TensorRole::kKeyNorm: return of_layer("attn_k_norm.weight");
    case TensorRole::kOutput: return of_layer("attn_output.weight");
    case TensorRole::kOutputBias: return of_layer("attn_output.bias");
    case TensorRole::kMlpNorm: return of_layer("ffn_norm.weight");
    case TensorRole::kGate: return of_layer("ffn_gate.weight");
    case TensorRole::kGateBias: return of_layer("ffn_gate.bias");
    case TensorRole::kUp: return of_layer("ffn_up.weight");
    case TensorRole::kUpBias: return of_layer("ffn_up.bias");
    case TensorRole::kDown: return of_layer("ffn_down.weight");
    case TensorRole::kDownBias: return of_layer("ffn_down.bias");
    case TensorRole::kRouter: return of_layer("ffn_gate_inp.weight");
    case TensorRole::kExpertGate: return of_layer("ffn_gate_exps.weight");
    case TensorRole::kExpertUp: return of_layer("ffn_up_exps.weight");
    case TensorRole::kExpertDown: return of_layer("ffn_down_exps.weight");
    case TensorRole::kSharedRouter: return of_layer("ffn_gate_inp_shexp.weight");
    case TensorRole::kSharedGate: return of_layer("ffn_gate_shexp.weight");
    case TensorRole::kSharedUp: return of_layer("ffn_up_shexp.weight");
    case TensorRole::kSharedDown: return of_layer("ffn_down_shexp.weight");
    case TensorRole::kFinalNorm: return "output_norm.weight";
    case TensorRole::kLmHead: return tied ? "token_embd.weight" : "output.weight";
  }
  return {};
}

std::string gguf_expert_name(TensorRole role, std::uint32_t layer, std::uint32_t expert) {
  assert(is_of_an_expert(role));
  const std::string kind = role == TensorRole::kExpertGate ? "gate" : role == TensorRole::kExpertUp ? "up" : "down";
  return "blk." + std::to_string(layer) + ".ffn_" + kind + "." + std::to_string(expert) + ".weight";
}

Result<GgufPart> find_gguf_part(const GgufFile& file, const TensorSlice& slice) {
  const bool tied = slice.role == TensorRole::kLmHead && file.find(gguf_name(slice.role, 0, false)) == nullptr;
  const std::string name = gguf_name(slice.role, slice.layer, tied);
  const GgufTensor* tensor = file.find(name);
  if (tensor == nullptr && is_of_an_expert(slice.role)) {
    const GgufTensor* alone = file.find(gguf_expert_name(slice.role, slice.layer, slice.expert));
    if (alone != nullptr) return GgufPart{alone, alone->shape(), file.bytes(*alone), place_of(file, *alone)};
  }
  if (tensor == nullptr) return is_missing(file, name);
  GgufPart part{tensor, tensor->shape(), file.bytes(*tensor), place_of(file, *tensor)};
  // Converters write this vector as a matrix of one row; llama-quantize makes a vector of it.
  if (slice.role == TensorRole::kSharedRouter && tensor->rank == 2 && tensor->sizes[0] == 1) {
    part.shape = part.shape.subspan(1);
  }
  if (!is_of_an_expert(slice.role)) return part;
  if (tensor->rank != kStackedRank || slice.expert >= tensor->sizes[0]) {
    return corrupt_data(part.place + ": has the shape " + to_string(part.shape) + ", without an expert " +
                        std::to_string(slice.expert) + " of " + std::to_string(slice.rows) + " x " +
                        std::to_string(slice.cols) + "; convert the model anew");
  }
  // Rows are whole blocks, and so every expert is.
  const std::uint64_t bytes = part.bytes.size() / tensor->sizes[0];
  part.shape = part.shape.subspan(1);
  part.bytes = part.bytes.subspan(slice.expert * bytes, bytes);
  part.place += ", expert " + std::to_string(slice.expert);
  return part;
}

std::optional<kernels::DType> dtype_of(const GgmlType& type) {
  using kernels::DType;
  constexpr std::pair<std::string_view, DType> kKnown[] = {
      {"F32", DType::kF32},   {"F16", DType::kF16},   {"BF16", DType::kBF16},
      {"Q8_0", DType::kQ8_0}, {"Q4_0", DType::kQ4_0}, {"Q5_0", DType::kQ5_0},
      {"Q4_K", DType::kQ4_K}, {"Q5_K", DType::kQ5_K}, {"Q6_K", DType::kQ6_K}};
  for (const auto& [name, dtype] : kKnown) {
    if (name == type.name) return dtype;
  }
  return std::nullopt;
}

Result<kernels::DType> usable_type(const GgufPart& part) {
  if (const auto dtype = dtype_of(*part.tensor->type)) return *dtype;
  return unsupported(part.place + ": is stored as " + std::string(part.tensor->type->name) + "; supported: " +
                     std::string(kReadableGgmlTypes) + ". Quantise the model anew with llama-quantize");
}

}  // namespace troupe::model
