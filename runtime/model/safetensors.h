#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/mapped_file.h"
#include "runtime/model/shape.h"

namespace troupe::model {

// The element types that a safetensors file may declare.
enum class StoredType : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

// As written in a file: "BF16".
std::string_view to_string(StoredType type);
std::size_t bits_of(StoredType type);

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::kF32;
  std::vector<std::uint64_t> shape;  // empty for a scalar
  std::uint64_t begin = 0;           // offsets in the file, end exclusive
  std::uint64_t end = 0;
};

// Reads the JSON header of a safetensors file whose data lies in [data_begin, file_bytes), and checks all of it:
// types, shapes against bytes, ranges that cover the data without overlap or hole, no name twice.
// Sorted by name. Memory is proportional to the header, whatever it claims. `place` is the file's name in errors.
Result<std::vector<StoredTensor>> parse_safetensors_header(std::string_view header, std::uint64_t data_begin,
                                                           std::uint64_t file_bytes, const std::string& place,
                                                           const Limits& limits = {});

// One memory-mapped safetensors file. Immutable, may be shared by threads. Only header pages are touched by open;
// the data is read when a caller reads through bytes(). The file must not be changed while it is open.
class SafetensorsFile {
 public:
  // Errors: kNotFound; kCorruptData naming the file, the tensor and the offset.
  static Result<std::unique_ptr<SafetensorsFile>> open(const std::filesystem::path& path, const Limits& limits = {});

  const std::filesystem::path& path() const { return path_; }
  std::span<const StoredTensor> tensors() const { return tensors_; }  // by name
  const StoredTensor* find(std::string_view name) const;              // null if absent

  // The tensor's memory: row-major, little-endian, of any alignment. REQUIRES: tensor is one of tensors().
  std::span<const std::byte> bytes(const StoredTensor& tensor) const;

 private:
  SafetensorsFile(std::filesystem::path path, MappedFile mapping)
      : path_(std::move(path)), mapping_(std::move(mapping)) {}

  std::filesystem::path path_;
  MappedFile mapping_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace troupe::model
