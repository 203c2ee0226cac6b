#include "tests/runtime/model/gguf_writer.h"

#include <algorithm>

namespace troupe::model::testing {
namespace {

constexpr std::uint32_t kF32 = 0;  // as ggml numbers types

std::string array_head(GgufType element, std::size_t count) {
  return bytes_of(static_cast<std::uint32_t>(element)) + bytes_of<std::uint64_t>(count);
}

}  // namespace

GgufWriter& GgufWriter::raw(std::string_view key, GgufType type, std::string_view bytes) {
  values_.push_back({std::string(key), bytes_of(static_cast<std::uint32_t>(type)).append(bytes)});
  return *this;
}

GgufWriter& GgufWriter::without(std::string_view key) {
  std::erase_if(values_, [key](const Value& value) { return value.key == key; });
  return *this;
}

GgufWriter& GgufWriter::strings(std::string_view key, const std::vector<std::string>& values) {
  std::string bytes = array_head(GgufType::kString, values.size());
  for (const std::string& value : values) bytes += text(value);
  return raw(key, GgufType::kArray, bytes);
}

GgufWriter& GgufWriter::i32s(std::string_view key, const std::vector<std::int32_t>& values) {
  std::string bytes = array_head(GgufType::kI32, values.size());
  for (const std::int32_t value : values) bytes += bytes_of(value);
  return raw(key, GgufType::kArray, bytes);
}

GgufWriter& GgufWriter::f32s(std::string_view key, const std::vector<float>& values) {
  std::string bytes = array_head(GgufType::kF32, values.size());
  for (const float value : values) bytes += bytes_of(value);
  return raw(key, GgufType::kArray, bytes);
}

GgufWriter& GgufWriter::tensor(std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
                               std::string_view bytes) {
  tensors_.push_back({std::string(name), shape, type, data_.size()});
  data_ += bytes;
  data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_, '\0');
  return *this;
}

GgufWriter& GgufWriter::f32_tensor(std::string_view name, const std::vector<std::uint64_t>& shape,
                                   const std::vector<float>& values) {
  return tensor(name, shape, kF32, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
}

GgufWriter& GgufWriter::align(std::uint64_t alignment) {
  alignment_ = alignment;
  return *this;
}

GgufWriter& GgufWriter::move(std::string_view name, std::uint64_t offset) {
  for (Tensor& tensor : tensors_) {
    if (tensor.name == name) tensor.offset = offset;
  }
  return *this;
}

std::string GgufWriter::header(std::uint32_t version) const {
  std::string bytes =
      "GGUF" + bytes_of(version) + bytes_of<std::uint64_t>(tensors_.size()) + bytes_of<std::uint64_t>(values_.size());
  for (const Value& value : values_) bytes += text(value.key) + value.bytes;
  for (const Tensor& tensor : tensors_) {
    bytes += text(tensor.name) + bytes_of(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) bytes += bytes_of(*size);
    bytes += bytes_of(tensor.type) + bytes_of(tensor.offset);
  }
  return bytes;
}

std::string GgufWriter::file(std::uint32_t version) const {
  std::string bytes = header(version);
  if (tensors_.empty()) return bytes;
  bytes.resize((bytes.size() + alignment_ - 1) / alignment_ * alignment_, '\0');
  return bytes + data_;
}

}  // namespace troupe::model::testing
