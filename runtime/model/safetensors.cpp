#include "runtime/model/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "runtime/base/log.h"
#include "runtime/model/json_walk.h"

namespace troupe::model {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian and used as it lies");

constexpr std::uint64_t kLengthBytes = 8;  // of the header's length in front of the header
constexpr std::size_t kMaxRank = 8;        // dimensions of a tensor

struct TypeName {
  std::string_view name;
  std::size_t bits;
};
// In the order of StoredType.
constexpr std::array<TypeName, 20> kTypes = {
    {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},    {"F8_E5M2", 8},
     {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16}, {"BF16", 16}, {"I32", 32},
     {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},    {"I64", 64}, {"U64", 64}}};
static_assert(static_cast<std::size_t>(StoredType::kU64) + 1 == kTypes.size());

// Reads {"__metadata__": {string: string}, name: {"dtype": string, "shape": [n...], "data_offsets": [begin, end]}}.
class HeaderHandler final : public JsonHandler {
 public:
  HeaderHandler(std::uint64_t data_begin, std::uint64_t file_bytes, const Limits& limits)
      : data_begin_(data_begin), data_bytes_(file_bytes - data_begin), limits_(limits) {}

  std::vector<StoredTensor> take() { return std::move(tensors_); }

  bool begin_object() override {
    switch (state_) {
      case State::kStart: state_ = State::kNames; return true;
      case State::kTensorValue: state_ = State::kFields; return true;
      case State::kMetadataValue: state_ = State::kMetadataKeys; return true;
      default: return refuse("an object is not expected here");
    }
  }

  bool end_object() override {
    switch (state_) {
      case State::kNames: state_ = State::kEnd; return true;
      case State::kMetadataKeys: state_ = State::kNames; return true;
      case State::kFields: state_ = State::kNames; return finish_tensor();
      default: return refuse("the object must not end here");
    }
  }

  bool key(std::string_view key) override {
    switch (state_) {
      case State::kNames: return begin_entry(key);
      case State::kMetadataKeys: state_ = State::kMetadataString; return true;
      case State::kFields: return begin_field(key);
      default: return refuse("a key is not expected here");
    }
  }

  bool string(std::string_view text) override {
    if (state_ == State::kMetadataString) {
      state_ = State::kMetadataKeys;
      return true;
    }
    if (state_ != State::kType) return refuse("a string is not expected here");
    for (std::size_t i = 0; i < kTypes.size(); ++i) {
      if (kTypes[i].name != text) continue;
      tensor_.type = static_cast<StoredType>(i);
      state_ = State::kFields;
      return true;
    }
    return bad("has the unknown dtype \"" + printable(text, 40) + "\"");
  }

  bool begin_array() override {
    if (in_list_ || (state_ != State::kShape && state_ != State::kOffsets))
      return refuse("a list is not expected here");
    in_list_ = true;
    return true;
  }

  bool integer(std::uint64_t number) override {
    if (!in_list_) return refuse("a number is not expected here");
    if (state_ == State::kShape) {
      if (tensor_.shape.size() == kMaxRank) return bad("has more than " + std::to_string(kMaxRank) + " dimensions");
      tensor_.shape.push_back(number);
      return true;
    }
    if (offset_count_ == offsets_.size()) return bad("has more than two data_offsets");
    offsets_[offset_count_++] = number;
    return true;
  }

  bool end_array() override {
    if (state_ == State::kOffsets && offset_count_ != offsets_.size()) return bad("has less than two data_offsets");
    in_list_ = false;
    state_ = State::kFields;
    return true;
  }

 private:
  enum class State : std::uint8_t {
    kStart,
    kNames,
    kMetadataValue,
    kMetadataKeys,
    kMetadataString,
    kTensorValue,
    kFields,
    kType,
    kShape,
    kOffsets,
    kEnd,
  };

  bool bad(const std::string& what) { return refuse("tensor '" + printable(tensor_.name) + "' " + what); }

  bool begin_entry(std::string_view name) {
    if (name == "__metadata__") {
      if (has_metadata_) return refuse("__metadata__ appears twice");
      has_metadata_ = true;
      state_ = State::kMetadataValue;
      return true;
    }
    if (tensors_.size() == limits_.model_tensors) {
      return refuse("more than " + std::to_string(limits_.model_tensors) + " tensors (limit model_tensors)");
    }
    tensor_ = {};
    tensor_.name = name;
    offset_count_ = 0;
    has_type_ = has_shape_ = has_offsets_ = false;
    state_ = State::kTensorValue;
    return true;
  }

  bool begin_field(std::string_view key) {
    bool* seen = key == "dtype"          ? &has_type_
                 : key == "shape"        ? &has_shape_
                 : key == "data_offsets" ? &has_offsets_
                                         : nullptr;
    if (seen == nullptr) return bad("has the unknown field '" + printable(key, 40) + "'");
    if (*seen) return bad("has the field '" + std::string(key) + "' twice");
    *seen = true;
    state_ = seen == &has_type_ ? State::kType : seen == &has_shape_ ? State::kShape : State::kOffsets;
    return true;
  }

  bool finish_tensor() {
    if (!has_type_ || !has_shape_ || !has_offsets_) return bad("lacks one of dtype, shape, data_offsets");
    const auto [begin, end] = offsets_;
    if (begin > end || end > data_bytes_) {
      return bad("has data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "], but the file has " +
                 std::to_string(data_bytes_) + " bytes of data");
    }
    std::uint64_t bits = bits_of(tensor_.type);
    for (const std::uint64_t size : tensor_.shape) {
      if (__builtin_mul_overflow(bits, size, &bits)) return bad("has a shape whose size overflows 64 bits");
    }
    if (bits % 8 != 0 || bits / 8 != end - begin) {
      return bad("has " + std::to_string(end - begin) + " bytes at offset " + std::to_string(data_begin_ + begin) +
                 ", but its shape " + to_string(tensor_.shape) + " of " + std::string(to_string(tensor_.type)) +
                 " takes " + std::to_string(bits / 8));
    }
    tensor_.begin = data_begin_ + begin;
    tensor_.end = data_begin_ + end;
    tensors_.push_back(std::move(tensor_));
    return true;
  }

  std::uint64_t data_begin_;
  std::uint64_t data_bytes_;
  const Limits& limits_;
  State state_ = State::kStart;
  StoredTensor tensor_;
  std::array<std::uint64_t, 2> offsets_{};
  std::size_t offset_count_ = 0;
  bool in_list_ = false;
  bool has_metadata_ = false;
  bool has_type_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::vector<StoredTensor> tensors_;
};

// The ranges must follow each other from the first byte of data to the last.
Result<void> check_coverage(std::vector<StoredTensor>& tensors, std::uint64_t data_begin, std::uint64_t file_bytes,
                            const std::string& place) {
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t covered = data_begin;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin != covered) {
      const bool overlap = tensor.begin < covered;
      return corrupt_data(
          place + ": tensor '" + printable(tensor.name) + "' begins at offset " + std::to_string(tensor.begin) + ", " +
          (overlap ? "inside the tensor that ends at " : "which leaves a hole after ") + std::to_string(covered));
    }
    covered = tensor.end;
  }
  if (covered != file_bytes) {
    return corrupt_data(place + ": " + std::to_string(file_bytes - covered) +
                        " bytes after the last tensor, at offset " + std::to_string(covered) + ", belong to none");
  }
  return {};
}

}  // namespace

std::string_view to_string(StoredType type) { return kTypes[static_cast<std::size_t>(type)].name; }
std::size_t bits_of(StoredType type) { return kTypes[static_cast<std::size_t>(type)].bits; }

Result<std::vector<StoredTensor>> parse_safetensors_header(std::string_view header, std::uint64_t data_begin,
                                                           std::uint64_t file_bytes, const std::string& place,
                                                           const Limits& limits) {
  if (header.empty() || header.front() != '{') {
    return corrupt_data(place + ": byte " + std::to_string(kLengthBytes) +
                        ": a safetensors header must begin with '{'");
  }
  HeaderHandler handler(data_begin, file_bytes, limits);
  TROUPE_RETURN_IF_ERROR(walk_json(header, kLengthBytes, place, handler));
  std::vector<StoredTensor> tensors = handler.take();
  TROUPE_RETURN_IF_ERROR(check_coverage(tensors, data_begin, file_bytes, place));
  std::sort(tensors.begin(), tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(tensors.begin(), tensors.end(),
                                        [](const StoredTensor& a, const StoredTensor& b) { return a.name == b.name; });
  if (twice != tensors.end()) {
    return corrupt_data(place + ": tensor '" + printable(twice->name) + "' appears twice, at offsets " +
                        std::to_string(twice->begin) + " and " + std::to_string((twice + 1)->begin));
  }
  return tensors;
}

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::open(const std::filesystem::path& path,
                                                               const Limits& limits) {
  const std::string place = path.string();
  TROUPE_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::open(path));
  const std::uint64_t file_bytes = mapping.bytes().size();
  if (file_bytes < kLengthBytes) {
    return corrupt_data(place + ": " + std::to_string(file_bytes) + " bytes are too short for a safetensors file");
  }
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path, std::move(mapping)));
  const std::byte* const data = file->mapping_.bytes().data();

  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, data, kLengthBytes);
  if (header_bytes > file_bytes - kLengthBytes) {
    return corrupt_data(place + ": byte 0: the header says it is " + std::to_string(header_bytes) +
                        " bytes long, but the file has " + std::to_string(file_bytes));
  }
  if (header_bytes > limits.model_header_bytes) {
    return resource_exhausted(place + ": byte 0: the header is " + std::to_string(header_bytes) +
                                  " bytes long; at most " + std::to_string(limits.model_header_bytes) +
                                  " are allowed (limit model_header_bytes)",
                              "model_header_bytes");
  }
  const std::string_view header(reinterpret_cast<const char*>(data) + kLengthBytes, header_bytes);
  TROUPE_ASSIGN_OR_RETURN(file->tensors_,
                          parse_safetensors_header(header, kLengthBytes + header_bytes, file_bytes, place, limits));
  return file;
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const StoredTensor& tensor, std::string_view key) { return tensor.name < key; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

std::span<const std::byte> SafetensorsFile::bytes(const StoredTensor& tensor) const {
  return mapping_.bytes().subspan(tensor.begin, tensor.end - tensor.begin);
}

}  // namespace troupe::model
