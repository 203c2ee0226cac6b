#include "runtime/model/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "runtime/base/log.h"
#include "runtime/model/shape.h"

namespace troupe::model {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data is little-endian and used as it lies");

constexpr std::uint32_t kMaxRank = 4;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMaxAlignment = 1 << 16;
constexpr std::string_view kAlignmentKey = "general.alignment";
// The least that an entry takes, so that a count can be refused before anything is read: a key of one byte with its
// length, a type and a value; a name of one byte with its length, one dimension, a type and an offset.
constexpr std::uint64_t kLeastValueBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},
};

std::uint64_t bytes_of(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool: return 1;
    case GgufType::kU16:
    case GgufType::kI16: return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32: return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64: return 8;
    case GgufType::kString:
    case GgufType::kArray: break;
  }
  return 0;
}

// Walks the header. No length is trusted before it is compared with what is left of the file.
class Reader {
 public:
  Reader(std::span<const std::byte> content, const std::string& place, const Limits& limits)
      : content_(content), place_(place), limits_(limits) {}

  std::uint64_t at() const { return at_; }

  // "FILE: byte N: WHERE: WHAT", where WHERE is the key or tensor being read.
  Error corrupt(const std::string& what) const { return corrupt_at(at_, what); }
  Error corrupt_at(std::uint64_t offset, const std::string& what) const {
    return corrupt_data(place_ + ": byte " + std::to_string(offset) + ": " + (where_.empty() ? "" : where_ + ": ") +
                        what);
  }

  Result<void> begin() {
    constexpr std::string_view kMagic = "GGUF";
    std::string_view magic;
    if (content_.size() >= kMagic.size()) magic = text_at(0, kMagic.size());
    for (const std::string_view older : {"lmgg", "fmgg", "tjgg", "algg"}) {
      if (magic != older) continue;
      return unsupported(place_ +
                         ": byte 0: a file in a format older than GGUF; convert the model's original anew, "
                         "with llama.cpp's convert_hf_to_gguf.py");
    }
    if (magic == "FUGG") return big_endian();
    if (magic != kMagic) return corrupt_data(place_ + ": byte 0: not a GGUF file");
    at_ = kMagic.size();
    TROUPE_ASSIGN_OR_RETURN(const auto version, number<std::uint32_t>("the version"));
    if (version == 1) {
      return unsupported(place_ +
                         ": byte 4: GGUF version 1; supported: 2 and 3. Convert the model anew, or rewrite "
                         "the file with a llama.cpp of 2023 (llama-quantize FILE NEW copy)");
    }
    if (version != 0 && (version & 0xFFFF) == 0) return big_endian();
    if (version != 2 && version != 3) {
      return unsupported(place_ + ": byte 4: GGUF version " + std::to_string(version) + "; supported: 2 and 3");
    }
    return {};
  }

  // How many tensors or values follow; each takes at least `least` bytes of what is left.
  Result<std::uint64_t> count(const std::string& what, std::uint64_t least, std::uint64_t limit,
                              std::string_view limit_name) {
    const std::uint64_t offset = at_;
    TROUPE_ASSIGN_OR_RETURN(const auto count, number<std::uint64_t>("the number of " + what));
    if (count > left() / least) {
      return corrupt_at(offset, "the file says it has " + std::to_string(count) + " " + what + ", more than its " +
                                    std::to_string(content_.size()) + " bytes can hold");
    }
    if (count > limit) {
      return resource_exhausted(place_ + ": byte " + std::to_string(offset) + ": " + std::to_string(count) + " " +
                                    what + "; at most " + std::to_string(limit) + " are allowed (limit " +
                                    std::string(limit_name) + ")",
                                std::string(limit_name));
    }
    return count;
  }

  Result<GgufValue> value(std::uint64_t index) {
    where_ = "metadata value " + std::to_string(index);
    GgufValue value;
    TROUPE_ASSIGN_OR_RETURN(value.key, string("the key"));
    if (value.key.empty()) return corrupt("the key is empty");
    for (const char c : value.key) {
      if (c <= ' ' || c > '~') return corrupt("the key '" + printable(value.key) + "' must be printable ASCII");
    }
    where_ = "key '" + printable(value.key) + "'";
    TROUPE_ASSIGN_OR_RETURN(value.type, type());
    value.element = value.type;
    if (value.type == GgufType::kArray) {
      TROUPE_ASSIGN_OR_RETURN(value.element, type());
      if (value.element == GgufType::kArray) {
        return unsupported(place_ + ": byte " + std::to_string(at_) + ": " + where_ +
                           ": an array of arrays; arrays of numbers, booleans and strings are supported");
      }
      TROUPE_ASSIGN_OR_RETURN(value.count, number<std::uint64_t>("the length of the array"));
    }
    value.offset = at_;
    if (value.element == GgufType::kString) {
      TROUPE_RETURN_IF_ERROR(skip_strings(value.count));
    } else {
      TROUPE_RETURN_IF_ERROR(skip(value.count, bytes_of(value.element)));
    }
    value.bytes = at_ - value.offset;
    where_.clear();
    return value;
  }

  // Everything of a tensor but where it lies: `begin` is still the offset that the file states.
  Result<GgufTensor> tensor(std::uint64_t index) {
    where_ = "tensor " + std::to_string(index);
    GgufTensor tensor;
    TROUPE_ASSIGN_OR_RETURN(tensor.name, string("the name"));
    if (tensor.name.empty()) return corrupt("the name is empty");
    where_ = "tensor '" + printable(tensor.name) + "'";
    TROUPE_ASSIGN_OR_RETURN(tensor.rank, number<std::uint32_t>("the number of dimensions"));
    if (tensor.rank == 0 || tensor.rank > kMaxRank) {
      return corrupt("has " + std::to_string(tensor.rank) + " dimensions; from 1 to " + std::to_string(kMaxRank) +
                     " are allowed");
    }
    for (std::uint32_t i = tensor.rank; i-- > 0;) {  // the file has the innermost first
      TROUPE_ASSIGN_OR_RETURN(tensor.sizes[i], number<std::uint64_t>("a dimension"));
    }
    TROUPE_ASSIGN_OR_RETURN(const auto type_number, number<std::uint32_t>("the type"));
    tensor.type = ggml_type(type_number);
    if (tensor.type == nullptr) {
      return unsupported(place_ + ": byte " + std::to_string(at_ - 4) + ": " + where_ + ": type " +
                         std::to_string(type_number) + " is not known");
    }
    std::uint64_t blocks = 1;
    for (const std::uint64_t size : tensor.shape()) {
      if (size == 0) return corrupt("a dimension of its shape " + to_string(tensor.shape()) + " is 0");
      if (__builtin_mul_overflow(blocks, size, &blocks)) {
        return corrupt("its shape " + to_string(tensor.shape()) + " overflows 64 bits");
      }
    }
    if (tensor.sizes[tensor.rank - 1] % tensor.type->block_elements != 0) {
      return corrupt("its rows of " + std::to_string(tensor.sizes[tensor.rank - 1]) + " elements are not a multiple " +
                     "of the blocks of " + std::to_string(tensor.type->block_elements) + " of its type " +
                     std::string(tensor.type->name));
    }
    TROUPE_ASSIGN_OR_RETURN(tensor.begin, number<std::uint64_t>("the offset"));
    if (__builtin_mul_overflow(blocks / tensor.type->block_elements, std::uint64_t{tensor.type->block_bytes},
                               &tensor.end)) {
      return corrupt("its shape " + to_string(tensor.shape()) + " overflows 64 bits");
    }
    where_.clear();
    return tensor;  // `end` is its size so far
  }

  // Puts the tensors where they say they are: one after the other in the order of the header, each at the next
  // multiple of the alignment, all within the file.
  Result<void> place_tensors(std::vector<GgufTensor>& tensors, std::uint64_t alignment) {
    if (tensors.empty()) return {};
    const std::uint64_t data_begin = (at_ + alignment - 1) / alignment * alignment;
    if (data_begin > content_.size()) return corrupt("the file ends before its tensor data");
    const std::uint64_t data_bytes = content_.size() - data_begin;
    std::uint64_t next = 0;  // in the data
    for (GgufTensor& tensor : tensors) {
      const std::uint64_t size = tensor.end;
      where_ = "tensor '" + printable(tensor.name) + "'";
      const std::string stated = "it says it is at offset " + std::to_string(tensor.begin) + " of the data, ";
      if (tensor.begin % alignment != 0) {
        return corrupt_at(data_begin, stated + "which is not a multiple of the alignment " + std::to_string(alignment));
      }
      if (tensor.begin != next) {
        return corrupt_at(data_begin, stated +
                                          (tensor.begin < next ? "inside the tensors before it, which end at "
                                                               : "which leaves a hole after ") +
                                          std::to_string(next));
      }
      if (next > data_bytes || size > data_bytes - next) {
        return corrupt_at(data_begin, stated + "and takes " + std::to_string(size) + " bytes, but the file has " +
                                          std::to_string(data_bytes) + " bytes of data");
      }
      tensor.begin = data_begin + next;
      tensor.end = tensor.begin + size;
      next = (next + size + alignment - 1) / alignment * alignment;
    }
    where_.clear();
    return {};
  }

 private:
  std::uint64_t left() const { return content_.size() - at_; }
  std::string_view text_at(std::uint64_t offset, std::uint64_t bytes) const {
    return {reinterpret_cast<const char*>(content_.data()) + offset, bytes};
  }
  Error big_endian() const {
    return unsupported(place_ +
                       ": a big-endian GGUF file; supported: little-endian. Convert it with llama.cpp's "
                       "gguf_convert_endian.py");
  }

  // The whole header must stay within model_header_bytes.
  Result<void> take(std::uint64_t bytes, const std::string& what) {
    if (bytes > left()) return corrupt(what + " goes beyond the end of the file at " + std::to_string(content_.size()));
    if (bytes > limits_.model_header_bytes || at_ > limits_.model_header_bytes - bytes) {
      return resource_exhausted(place_ + ": the header is longer than " + std::to_string(limits_.model_header_bytes) +
                                    " bytes (limit model_header_bytes)",
                                "model_header_bytes");
    }
    at_ += bytes;
    return {};
  }

  template <class T>
  Result<T> number(const std::string& what) {
    TROUPE_RETURN_IF_ERROR(take(sizeof(T), what));
    T value;
    std::memcpy(&value, content_.data() + at_ - sizeof(T), sizeof(T));
    return value;
  }

  Result<std::string_view> string(const std::string& what) {
    TROUPE_ASSIGN_OR_RETURN(const auto length, number<std::uint64_t>("the length of " + what));
    TROUPE_RETURN_IF_ERROR(take(length, what + ", " + std::to_string(length) + " bytes long,"));
    return text_at(at_ - length, length);
  }

  Result<GgufType> type() {
    TROUPE_ASSIGN_OR_RETURN(const auto number, this->number<std::uint32_t>("the type"));
    if (number >= kGgufTypes) return corrupt_at(at_ - 4, "value type " + std::to_string(number) + " is not known");
    return static_cast<GgufType>(number);
  }

  Result<void> skip(std::uint64_t count, std::uint64_t bytes) {
    std::uint64_t total = 0;
    const bool overflows = __builtin_mul_overflow(count, bytes, &total);
    if (overflows || total > left()) {
      return corrupt(std::to_string(count) + " elements go beyond the end of the file at " +
                     std::to_string(content_.size()));
    }
    return take(total, "the value");
  }

  Result<void> skip_strings(std::uint64_t count) {
    if (count > left() / sizeof(std::uint64_t)) return skip(count, sizeof(std::uint64_t));
    for (std::uint64_t i = 0; i < count; ++i) {
      TROUPE_ASSIGN_OR_RETURN(const auto length, number<std::uint64_t>("the length of a string"));
      if (length > left()) {
        return corrupt("string " + std::to_string(i) + " of " + std::to_string(count) + ", " + std::to_string(length) +
                       " bytes long, goes beyond the end of the file at " + std::to_string(content_.size()));
      }
      TROUPE_RETURN_IF_ERROR(take(length, "a string"));
    }
    return {};
  }

  std::span<const std::byte> content_;
  const std::string& place_;
  const Limits& limits_;
  std::uint64_t at_ = 0;
  std::string where_;
};

// The alignment of the data. A file that states one must state it as the format says: nothing after it can be trusted.
Result<std::uint64_t> alignment_of(const GgufMetadata& metadata) {
  const GgufValue* stated = metadata.find(kAlignmentKey);
  if (stated == nullptr) return kDefaultAlignment;
  if (stated->type != GgufType::kU32) return metadata.corrupt(kAlignmentKey, "must be a uint32");
  TROUPE_ASSIGN_OR_RETURN(const auto alignment, metadata.unsigned_integer(kAlignmentKey, 1, kMaxAlignment));
  if (!std::has_single_bit(alignment)) {
    return metadata.corrupt(kAlignmentKey, "is " + std::to_string(alignment) + "; it must be a power of two");
  }
  return alignment;
}

// Sorts by what `name` gives; an error names what appears twice.
template <class T, class Name>
Result<void> sort_unique(std::vector<T>& entries, Name name, const std::string& place, const std::string& what) {
  std::sort(entries.begin(), entries.end(), [&](const T& a, const T& b) { return name(a) < name(b); });
  const auto twice =
      std::adjacent_find(entries.begin(), entries.end(), [&](const T& a, const T& b) { return name(a) == name(b); });
  if (twice == entries.end()) return {};
  return corrupt_data(place + ": " + what + " '" + printable(name(*twice)) + "' appears twice");
}

}  // namespace

const GgmlType* ggml_type(std::uint32_t number) {
  const auto found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [number](const GgmlType& type) { return type.number == number; });
  return found == std::end(kTypes) ? nullptr : &*found;
}

Result<std::unique_ptr<GgufFile>> GgufFile::open(const std::filesystem::path& path, const Limits& limits) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  TROUPE_ASSIGN_OR_RETURN(file->mapping_, MappedFile::open(path));
  file->content_ = file->mapping_->bytes();
  TROUPE_RETURN_IF_ERROR(file->read(path.string(), limits));
  return file;
}

Result<std::unique_ptr<GgufFile>> GgufFile::parse(std::span<const std::byte> content, const std::string& place,
                                                  const Limits& limits) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->content_ = content;
  TROUPE_RETURN_IF_ERROR(file->read(place, limits));
  return file;
}

Result<void> GgufFile::read(const std::string& place, const Limits& limits) {
  Reader reader(content_, place, limits);
  TROUPE_RETURN_IF_ERROR(reader.begin());
  TROUPE_ASSIGN_OR_RETURN(const auto tensor_count,
                          reader.count("tensors", kLeastTensorBytes, limits.model_tensors, "model_tensors"));
  TROUPE_ASSIGN_OR_RETURN(const auto value_count,
                          reader.count("metadata values", kLeastValueBytes, limits.model_metadata, "model_metadata"));
  std::vector<GgufValue> values;
  for (std::uint64_t i = 0; i < value_count; ++i) {
    TROUPE_ASSIGN_OR_RETURN(const GgufValue value, reader.value(i));
    values.push_back(value);
  }
  TROUPE_RETURN_IF_ERROR(sort_unique(
      values, [](const GgufValue& value) { return value.key; }, place, "key"));
  metadata_ = GgufMetadata(content_, place, std::move(values));

  TROUPE_ASSIGN_OR_RETURN(const std::uint64_t alignment, alignment_of(metadata_));
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    TROUPE_ASSIGN_OR_RETURN(const GgufTensor tensor, reader.tensor(i));
    tensors_.push_back(tensor);
  }
  TROUPE_RETURN_IF_ERROR(reader.place_tensors(tensors_, alignment));
  return sort_unique(
      tensors_, [](const GgufTensor& tensor) { return tensor.name; }, place, "tensor");
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const GgufTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace troupe::model
