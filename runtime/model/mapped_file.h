#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "runtime/base/result.h"

namespace troupe::model {

// A regular file mapped into memory for reading. Immutable, may be shared by threads; pages are read when they are
// touched. The file must not be changed while it is mapped.
class MappedFile {
 public:
  // Errors: kNotFound, kInvalidArgument for what is no regular file, kUnavailable when it cannot be mapped.
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;  // the mapping; null for an empty file
};

}  // namespace troupe::model
