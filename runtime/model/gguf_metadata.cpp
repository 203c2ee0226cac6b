#include "runtime/model/gguf_metadata.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/base/log.h"

namespace troupe::model {
namespace {

constexpr std::array<std::string_view, kGgufTypes> kNames = {"uint8",  "int8",    "uint16",  "int16",  "uint32",
                                                             "int32",  "float32", "boolean", "string", "array",
                                                             "uint64", "int64",   "float64"};

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// A whole number of a file, with its sign: 64 bits of either kind.
struct Integer {
  bool negative = false;
  std::uint64_t magnitude = 0;
};

template <class T>
Integer widened(const std::byte* from) {
  const T value = load<T>(from);
  if constexpr (std::numeric_limits<T>::is_signed) {
    if (value < 0) return {true, 0 - static_cast<std::uint64_t>(value)};
  }
  return {false, static_cast<std::uint64_t>(value)};
}

std::optional<Integer> integer_at(const std::byte* from, GgufType type) {
  switch (type) {
    case GgufType::kU8: return widened<std::uint8_t>(from);
    case GgufType::kI8: return widened<std::int8_t>(from);
    case GgufType::kU16: return widened<std::uint16_t>(from);
    case GgufType::kI16: return widened<std::int16_t>(from);
    case GgufType::kU32: return widened<std::uint32_t>(from);
    case GgufType::kI32: return widened<std::int32_t>(from);
    case GgufType::kU64: return widened<std::uint64_t>(from);
    case GgufType::kI64: return widened<std::int64_t>(from);
    default: return std::nullopt;
  }
}

std::string shown(const Integer& number) { return (number.negative ? "-" : "") + std::to_string(number.magnitude); }

}  // namespace

std::string_view to_string(GgufType type) { return kNames[static_cast<std::size_t>(type)]; }

GgufMetadata::GgufMetadata(std::span<const std::byte> file, std::string place, std::vector<GgufValue> values)
    : file_(file), place_(std::move(place)), values_(std::move(values)) {}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto found =
      std::lower_bound(values_.begin(), values_.end(), key,
                       [](const GgufValue& value, std::string_view wanted) { return value.key < wanted; });
  return found != values_.end() && found->key == key ? &*found : nullptr;
}

std::string GgufMetadata::place_of(std::string_view key) const {
  const GgufValue* value = find(key);
  return place_ + ": key '" + printable(key) + "' " +
         (value == nullptr ? std::string() : "at offset " + std::to_string(value->offset) + " ");
}

Error GgufMetadata::corrupt(std::string_view key, const std::string& what) const {
  return Error{ErrorCode::kCorruptData, place_of(key) + what, std::string(key)};
}

Error GgufMetadata::refused(std::string_view key, const std::string& what) const {
  return unsupported(place_of(key) + what, std::string(key));
}

Error GgufMetadata::wrong_type(const GgufValue& value, const std::string& wanted) const {
  const std::string kind = value.type == GgufType::kArray ? "an array of " + std::string(to_string(value.element))
                                                          : std::string(to_string(value.type));
  return corrupt(value.key, "is of type " + kind + "; it must be " + wanted);
}

Result<std::uint64_t> GgufMetadata::unsigned_integer(std::string_view key, std::uint64_t min, std::uint64_t max,
                                                     std::optional<std::uint64_t> otherwise) const {
  const std::string wanted = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
  const GgufValue* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return corrupt(key, "is missing; it must be " + wanted);
  }
  const auto number = integer_at(file_.data() + value->offset, value->type);
  if (!number) return wrong_type(*value, wanted);
  if (number->negative || number->magnitude < min || number->magnitude > max) {
    return corrupt(key, "is " + shown(*number) + "; it must be " + wanted);
  }
  return number->magnitude;
}

Result<double> GgufMetadata::number(std::string_view key, std::optional<double> otherwise) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return corrupt(key, "is missing; it must be a number");
  }
  const std::byte* from = file_.data() + value->offset;
  double number = 0;
  if (value->type == GgufType::kF32) {
    number = load<float>(from);
  } else if (value->type == GgufType::kF64) {
    number = load<double>(from);
  } else if (const auto integer = integer_at(from, value->type)) {
    number = static_cast<double>(integer->magnitude) * (integer->negative ? -1 : 1);
  } else {
    return wrong_type(*value, "a number");
  }
  if (!std::isfinite(number)) return corrupt(key, "is not a finite number");
  return number;
}

Result<bool> GgufMetadata::boolean(std::string_view key, bool otherwise) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return otherwise;
  if (value->type != GgufType::kBool) return wrong_type(*value, "a boolean");
  return load<std::uint8_t>(file_.data() + value->offset) != 0;
}

Result<std::string_view> GgufMetadata::string(std::string_view key, std::optional<std::string_view> otherwise) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return corrupt(key, "is missing; it must be a string");
  }
  if (value->type != GgufType::kString) return wrong_type(*value, "a string");
  const char* text = reinterpret_cast<const char*>(file_.data() + value->offset) + sizeof(std::uint64_t);
  return std::string_view(text, value->bytes - sizeof(std::uint64_t));
}

Result<const GgufValue*> GgufMetadata::array(std::string_view key, std::uint64_t max_count,
                                             std::string_view limit) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return value;
  if (value->type != GgufType::kArray) return wrong_type(*value, "an array");
  if (value->count > max_count) {
    return resource_exhausted(place_of(key) + "has " + std::to_string(value->count) + " elements; at most " +
                                  std::to_string(max_count) + " are allowed (limit " + std::string(limit) + ")",
                              std::string(limit));
  }
  return value;
}

Result<std::vector<std::string_view>> GgufMetadata::strings(std::string_view key, std::uint64_t max_count,
                                                            std::string_view limit) const {
  std::vector<std::string_view> strings;
  TROUPE_ASSIGN_OR_RETURN(const GgufValue* value, array(key, max_count, limit));
  if (value == nullptr) return strings;
  if (value->element != GgufType::kString) return wrong_type(*value, "an array of string");
  strings.reserve(value->count);
  const std::byte* at = file_.data() + value->offset;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto length = load<std::uint64_t>(at);
    strings.emplace_back(reinterpret_cast<const char*>(at) + sizeof length, length);
    at += sizeof length + length;
  }
  return strings;
}

Result<std::vector<std::int64_t>> GgufMetadata::integers(std::string_view key, std::uint64_t max_count,
                                                         std::string_view limit) const {
  std::vector<std::int64_t> numbers;
  TROUPE_ASSIGN_OR_RETURN(const GgufValue* value, array(key, max_count, limit));
  if (value == nullptr) return numbers;
  if (value->element != GgufType::kI32 && value->element != GgufType::kU32) {
    return wrong_type(*value, "an array of int32 or uint32");
  }
  numbers.reserve(value->count);
  const std::byte* at = file_.data() + value->offset;
  for (std::uint64_t i = 0; i < value->count; ++i, at += sizeof(std::int32_t)) {
    numbers.push_back(value->element == GgufType::kI32 ? std::int64_t{load<std::int32_t>(at)}
                                                       : std::int64_t{load<std::uint32_t>(at)});
  }
  return numbers;
}

Result<std::vector<float>> GgufMetadata::floats(std::string_view key, std::uint64_t max_count,
                                                std::string_view limit) const {
  std::vector<float> numbers;
  TROUPE_ASSIGN_OR_RETURN(const GgufValue* value, array(key, max_count, limit));
  if (value == nullptr) return numbers;
  if (value->element != GgufType::kF32 && value->element != GgufType::kI32) {
    return wrong_type(*value, "an array of float32 or int32");
  }
  numbers.reserve(value->count);
  const std::byte* at = file_.data() + value->offset;
  for (std::uint64_t i = 0; i < value->count; ++i, at += sizeof(float)) {
    numbers.push_back(value->element == GgufType::kF32 ? load<float>(at) : static_cast<float>(load<std::int32_t>(at)));
  }
  return numbers;
}

}  // namespace troupe::model
