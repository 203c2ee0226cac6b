#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/quant.h"
#include "kernels/tensor.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/gguf.h"
#include "runtime/model/safetensors.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// Part of a weight matrix in the mapping of its file, or in `copy` where the file does not align its elements. Valid as
// long as the checkpoint and the copy live.
struct LoadedMatrix {
  kernels::WeightView view;
  std::unique_ptr<std::byte[]> copy;
};

// What a safetensors file of `troupe quantize` calls the scales of a kInt8 matrix.
std::string scales_name(std::string_view matrix);

// The weights of a GGUF file, or of a Hugging Face directory: model.safetensors, or model.safetensors.index.json and
// the files that it names, which are opened when the first tensor in them is asked for. Not thread-safe.
class Checkpoint {
 public:
  // Errors: of GgufFile::open; kNotFound when the directory holds neither; kCorruptData for a broken index or a file
  // outside the directory (links into the blobs folder of a Hugging Face cache are accepted).
  static Result<Checkpoint> open(const std::filesystem::path& model, const Limits& limits = {});

  // The rows and columns that `slice` owns, after the tensor's type and shape are checked. Blocks and panels of a
  // quantised format are handed out whole: a slice that cuts one is an error.
  // Errors name the file, the tensor and the offset.
  Result<LoadedMatrix> matrix(const TensorSlice& slice);

  // The same as float32, for norms and biases (F32, F16 or BF16).
  Result<std::vector<float>> vector(const TensorSlice& slice);

  // Bytes that the parts of these tensors take in their files. Checks every tensor as matrix() and vector() do, and
  // reads none.
  Result<std::uint64_t> bytes_of(std::span<const TensorSlice> slices);

  // How each of these tensors is stored. Errors as of bytes_of().
  Result<std::vector<kernels::DType>> dtypes_of(std::span<const TensorSlice> slices);

  // Where in the mapping the rows of these parts lie, whole rows, in the order of `slices`. Errors as of bytes_of().
  Result<std::vector<std::span<const std::byte>>> places_of(std::span<const TensorSlice> slices);

  // Bytes of tensor data handed out so far: what a shard reads of the checkpoint, and nothing else is read.
  std::uint64_t bytes_read() const { return bytes_read_; }

 private:
  Checkpoint() = default;

  // A whole tensor where it lies.
  struct Located {
    const std::byte* data = nullptr;
    kernels::DType dtype = kernels::DType::kF32;
    const float* scales = nullptr;  // kInt8: (rows)
    std::string place;              // "FILE: tensor NAME at offset N"

    // Bytes of the file in a part of the tensor.
    std::uint64_t bytes(std::uint64_t rows, std::uint64_t cols) const;
  };
  Result<std::string> name_of(const TensorSlice& slice);
  Result<Located> locate(const TensorSlice& slice);
  Result<Located> locate_in_gguf(const TensorSlice& slice);
  Result<Located> locate_panels(const SafetensorsFile& file, const StoredTensor& tensor, const TensorSlice& slice,
                                const std::string& place) const;
  Result<void> check_grain(const Located& whole, const TensorSlice& slice) const;
  Result<const SafetensorsFile*> file(const std::string& name);

  Limits limits_;
  std::unique_ptr<GgufFile> gguf_;  // or the directory with what follows
  std::filesystem::path directory_;
  std::filesystem::path index_path_;                                            // empty for a single file
  std::map<std::string, std::string, std::less<>> weight_map_;                  // tensor -> file name, of the index
  std::map<std::string, std::unique_ptr<SafetensorsFile>, std::less<>> files_;  // opened so far
  std::uint64_t bytes_read_ = 0;
};

}  // namespace troupe::model
