#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "runtime/base/result.h"
#include "runtime/model/config.h"

namespace troupe::model::testing {

// For messages of checks that a result is good, which are made whether it is or not.
template <class T>
std::string why(const Result<T>& result) {
  return result.ok() ? std::string() : result.error().message;
}

// A directory that is gone at the end of the scope.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

void write_file(const std::filesystem::path& path, std::string_view content);

// A safetensors file out of a header and its data.
std::string safetensors_text(std::string_view header, std::string_view data);

struct TinyTensor {
  std::vector<std::uint64_t> shape;
  std::vector<float> values;  // as the file stores them: already rounded to its type
};
using TinyTensors = std::map<std::string, TinyTensor>;

// Every tensor of the config's architecture with seeded random values that `dtype` can hold.
TinyTensors random_tensors(const ModelConfig& config, std::uint32_t seed, kernels::DType dtype);

// Writes `tensors` as one safetensors file.
void write_tensors(const std::filesystem::path& path, const TinyTensors& tensors, kernels::DType dtype);

// Writes model.safetensors, or, with files > 1, as many files and an index.
void write_model(const std::filesystem::path& directory, const TinyTensors& tensors, kernels::DType dtype,
                 std::size_t files = 1);

}  // namespace troupe::model::testing
