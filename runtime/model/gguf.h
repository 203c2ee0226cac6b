#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/gguf_metadata.h"
#include "runtime/model/mapped_file.h"

namespace troupe::model {

// An element type of tensors as ggml numbers them. Files of types that nothing here computes with can be read, too.
struct GgmlType {
  std::uint32_t number = 0;
  std::string_view name;         // "Q4_K"
  std::uint32_t block_elements;  // elements of a block, which lie in one row
  std::uint32_t block_bytes;
};

// The type of that number, or null.
const GgmlType* ggml_type(std::uint32_t number);

struct GgufTensor {
  std::string_view name;
  const GgmlType* type = nullptr;
  std::array<std::uint64_t, 4> sizes{};  // outermost first (rows, columns), as safetensors has them
  std::uint32_t rank = 0;                // how many of them
  std::uint64_t begin = 0;               // offsets in the file, end exclusive
  std::uint64_t end = 0;

  std::span<const std::uint64_t> shape() const { return {sizes.data(), rank}; }
};

// One GGUF file of version 2 or 3. Immutable, may be shared by threads. Only header pages are touched by open; the
// data is read when a caller reads through bytes(). Everything that the file claims is checked before it is used;
// memory is proportional to the header, whatever it claims.
class GgufFile {
 public:
  // Maps a file. Errors: kNotFound; kUnsupported for versions, byte orders and older formats that are not read;
  // kCorruptData naming the file, the key or tensor, and the offset.
  static Result<std::unique_ptr<GgufFile>> open(const std::filesystem::path& path, const Limits& limits = {});
  // The same from memory, which outlives the object. `place` stands for the file in errors.
  static Result<std::unique_ptr<GgufFile>> parse(std::span<const std::byte> content, const std::string& place,
                                                 const Limits& limits = {});

  const std::string& place() const { return metadata_.place(); }
  const GgufMetadata& metadata() const { return metadata_; }
  std::span<const GgufTensor> tensors() const { return tensors_; }  // by name
  const GgufTensor* find(std::string_view name) const;              // null if absent

  // The tensor's memory: rows of blocks, little-endian. REQUIRES: tensor is one of tensors().
  std::span<const std::byte> bytes(const GgufTensor& tensor) const {
    return content_.subspan(tensor.begin, tensor.end - tensor.begin);
  }

 private:
  GgufFile() = default;
  Result<void> read(const std::string& place, const Limits& limits);

  std::optional<MappedFile> mapping_;
  std::span<const std::byte> content_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace troupe::model
