#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::model {

// The types of metadata values, numbered as in a file.
enum class GgufType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};
inline constexpr std::uint32_t kGgufTypes = 13;

std::string_view to_string(GgufType type);

// One key and where its value lies in the file. Points into the file's bytes.
struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;  // of an array; `type` otherwise
  std::uint64_t count = 1;           // elements of an array
  std::uint64_t offset = 0;          // in the file, of the value or of the first element
  std::uint64_t bytes = 0;
};

// The metadata of a GGUF file, already checked to lie within it. Points into the file's bytes. Every getter checks
// type and range; its error names the file, the key and the offset.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  // `values` sorted by key. `file` outlives the object.
  GgufMetadata(std::span<const std::byte> file, std::string place, std::vector<GgufValue> values);

  std::span<const GgufValue> values() const { return values_; }
  const std::string& place() const { return place_; }
  const GgufValue* find(std::string_view key) const;  // null if absent
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  // An integer of any width and sign in [min, max]; `otherwise` when the key is absent, an error without one.
  Result<std::uint64_t> unsigned_integer(std::string_view key, std::uint64_t min, std::uint64_t max,
                                         std::optional<std::uint64_t> otherwise = {}) const;
  // A finite number: float32, float64 or an integer.
  Result<double> number(std::string_view key, std::optional<double> otherwise = {}) const;
  Result<bool> boolean(std::string_view key, bool otherwise) const;
  Result<std::string_view> string(std::string_view key, std::optional<std::string_view> otherwise = {}) const;

  // Arrays of at most max_count elements (naming `limit` beyond it): strings; int32 or uint32; float32 or int32.
  // Empty when the key is absent.
  Result<std::vector<std::string_view>> strings(std::string_view key, std::uint64_t max_count,
                                                std::string_view limit) const;
  Result<std::vector<std::int64_t>> integers(std::string_view key, std::uint64_t max_count,
                                             std::string_view limit) const;
  Result<std::vector<float>> floats(std::string_view key, std::uint64_t max_count, std::string_view limit) const;

  // "FILE: key 'KEY' at offset N WHAT", as kCorruptData and as kUnsupported.
  Error corrupt(std::string_view key, const std::string& what) const;
  Error refused(std::string_view key, const std::string& what) const;

 private:
  std::string place_of(std::string_view key) const;
  Error wrong_type(const GgufValue& value, const std::string& wanted) const;
  // The array, or null when the key is absent.
  Result<const GgufValue*> array(std::string_view key, std::uint64_t max_count, std::string_view limit) const;

  std::span<const std::byte> file_;
  std::string place_;
  std::vector<GgufValue> values_;
};

}  // namespace troupe::model
