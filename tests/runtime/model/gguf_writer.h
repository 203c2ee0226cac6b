#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/gguf_metadata.h"

namespace troupe::model::testing {

// The bytes of a number as a file has them.
template <class T>
std::string bytes_of(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

// Puts a GGUF file together, sound or not: nothing is checked.
class GgufWriter {
 public:
  GgufWriter& u32(std::string_view key, std::uint32_t value) { return raw(key, GgufType::kU32, bytes_of(value)); }
  GgufWriter& f32(std::string_view key, float value) { return raw(key, GgufType::kF32, bytes_of(value)); }
  GgufWriter& boolean(std::string_view key, bool value) {
    return raw(key, GgufType::kBool, bytes_of(static_cast<std::uint8_t>(value)));
  }
  GgufWriter& string(std::string_view key, std::string_view value) { return raw(key, GgufType::kString, text(value)); }
  GgufWriter& strings(std::string_view key, const std::vector<std::string>& values);
  GgufWriter& i32s(std::string_view key, const std::vector<std::int32_t>& values);
  GgufWriter& f32s(std::string_view key, const std::vector<float>& values);
  // A value of which the bytes after the type are given.
  GgufWriter& raw(std::string_view key, GgufType type, std::string_view bytes);
  // Takes a value out again, to put another in its place.
  GgufWriter& without(std::string_view key);

  // Rows of a type of ggml; `shape` is outermost first.
  GgufWriter& tensor(std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
                     std::string_view bytes);
  GgufWriter& f32_tensor(std::string_view name, const std::vector<std::uint64_t>& shape,
                         const std::vector<float>& values);

  // Of tensors: what their offsets and the data are padded to. A file that differs from 32 must say so itself.
  GgufWriter& align(std::uint64_t alignment);
  // The offset that the header states for a tensor, wrong or right.
  GgufWriter& move(std::string_view name, std::uint64_t offset);

  std::string file(std::uint32_t version = 3) const;
  std::string header(std::uint32_t version = 3) const;  // without the data

  // A string as the format has it: its length and itself.
  static std::string text(std::string_view value) { return bytes_of<std::uint64_t>(value.size()).append(value); }

 private:
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::uint32_t type;
    std::uint64_t offset;
  };
  struct Value {
    std::string key;
    std::string bytes;  // type and value
  };

  std::uint64_t alignment_ = 32;
  std::vector<Value> values_;
  std::vector<Tensor> tensors_;
  std::string data_;
};

}  // namespace troupe::model::testing
