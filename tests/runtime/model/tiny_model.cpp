#include "tests/runtime/model/tiny_model.h"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <fstream>
#include <random>

#include "kernels/cpu/half.h"
#include "runtime/model/slice.h"

namespace troupe::model::testing {

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "troupe-model-XXXXXX").string();
  BOOST_REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  BOOST_REQUIRE(file.good());
}

std::string safetensors_text(std::string_view header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string text(sizeof length, '\0');
  std::memcpy(text.data(), &length, sizeof length);
  return text.append(header).append(data);
}

TinyTensors random_tensors(const ModelConfig& config, std::uint32_t seed, kernels::DType dtype) {
  std::mt19937 random(seed);
  TinyTensors tensors;
  const Slice whole{0, config.num_layers, config.num_layers, 0, 1};
  for (const TensorSlice& slice : tensor_slices(config, whole)) {
    TinyTensor tensor;
    tensor.shape = slice.is_vector ? std::vector{slice.cols} : std::vector{slice.rows, slice.cols};
    const bool is_norm = slice.name.find("norm") != std::string::npos;
    std::normal_distribution<float> normal(is_norm ? 1.0f : 0.0f, is_norm ? 0.2f : 0.3f);
    for (std::uint64_t i = 0; i < slice.rows * slice.cols; ++i) {
      float value = 0;
      kernels::store_from_f32(normal(random), &value, dtype, 0);
      tensor.values.push_back(kernels::load_as_f32(&value, dtype, 0));
    }
    tensors.emplace(slice.name, std::move(tensor));
  }
  return tensors;
}

void write_tensors(const std::filesystem::path& path, const TinyTensors& tensors, kernels::DType dtype) {
  const std::string type = dtype == kernels::DType::kF32 ? "F32" : dtype == kernels::DType::kF16 ? "F16" : "BF16";
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t begin = data.size();
    data.resize(begin + tensor.values.size() * kernels::size_of(dtype));
    for (std::size_t i = 0; i < tensor.values.size(); ++i) {
      kernels::store_from_f32(tensor.values[i], data.data() + begin, dtype, i);
    }
    header.append(",\"").append(name).append("\":{\"dtype\":\"").append(type).append("\",\"shape\":[");
    header.append(std::to_string(tensor.shape[0]));
    if (tensor.shape.size() == 2) header.append(",").append(std::to_string(tensor.shape[1]));
    header.append("],\"data_offsets\":[").append(std::to_string(begin)).append(",");
    header.append(std::to_string(data.size())).append("]}");
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  write_file(path, safetensors_text(header, data));
}

void write_model(const std::filesystem::path& directory, const TinyTensors& tensors, kernels::DType dtype,
                 std::size_t files) {
  if (files == 1) return write_tensors(directory / "model.safetensors", tensors, dtype);
  std::vector<TinyTensors> parts(files);
  std::string map;
  std::size_t next = 0;
  for (const auto& entry : tensors) {
    const std::size_t part = next++ % files;
    parts[part].insert(entry);
    map += (map.empty() ? "\"" : ",\"") + entry.first + "\":\"part-" + std::to_string(part) + ".safetensors\"";
  }
  for (std::size_t part = 0; part < files; ++part) {
    write_tensors(directory / ("part-" + std::to_string(part) + ".safetensors"), parts[part], dtype);
  }
  write_file(directory / "model.safetensors.index.json",
             R"({"metadata":{"total_size":1,"shards":[{"a":null}]},"weight_map":{)" + map + "}}");
}

}  // namespace troupe::model::testing
