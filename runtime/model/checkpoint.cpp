#include "runtime/model/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <system_error>

#include "kernels/cpu/half.h"
#include "runtime/base/log.h"
#include "runtime/model/gguf_config.h"
#include "runtime/model/json_walk.h"
#include "runtime/model/text_file.h"

namespace troupe::model {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

// Reads {"metadata": {scalar...}, "weight_map": {tensor: file}}.
class IndexHandler final : public JsonHandler {
 public:
  explicit IndexHandler(const Limits& limits) : limits_(limits) {}

  bool complete() const { return has_map_; }
  std::map<std::string, std::string, std::less<>> take() { return std::move(map_); }

  bool begin_object() override {
    switch (state_) {
      case State::kStart: state_ = State::kSections; return true;
      case State::kMapValue: state_ = State::kMap; return true;
      case State::kOther: ++other_depth_; return true;
      default: return refuse("an object is not expected here");
    }
  }
  bool end_object() override {
    if (state_ == State::kOther && --other_depth_ > 0) return true;
    state_ = state_ == State::kSections ? State::kEnd : State::kSections;
    return true;
  }
  bool begin_array() override {
    if (state_ != State::kOther) return refuse("a list is not expected here");
    ++other_depth_;
    return true;
  }
  bool end_array() override {
    if (--other_depth_ == 0) state_ = State::kSections;
    return true;
  }
  bool key(std::string_view key) override {
    if (state_ == State::kMap) {
      tensor_ = key;
      return true;
    }
    if (state_ == State::kOther) return true;
    if (key == "weight_map") {
      if (has_map_) return refuse("weight_map appears twice");
      has_map_ = true;
      state_ = State::kMapValue;
    } else {
      state_ = State::kOther;
      other_depth_ = 0;
    }
    return true;
  }
  bool string(std::string_view text) override {
    if (state_ != State::kMap) return other();
    if (map_.size() == limits_.model_tensors) {
      return refuse("more than " + std::to_string(limits_.model_tensors) + " tensors (limit model_tensors)");
    }
    if (!map_.emplace(tensor_, text).second) return refuse("tensor '" + printable(tensor_) + "' appears twice");
    return true;
  }
  bool integer(std::uint64_t) override { return other(); }
  bool other() override {
    if (state_ != State::kOther) return refuse("weight_map must be an object of tensor names and file names");
    if (other_depth_ == 0) state_ = State::kSections;
    return true;
  }

 private:
  enum class State : std::uint8_t { kStart, kSections, kMapValue, kMap, kOther, kEnd };

  const Limits& limits_;
  State state_ = State::kStart;
  int other_depth_ = 0;  // open objects and lists of a section that is skipped
  bool has_map_ = false;
  std::string tensor_;
  std::map<std::string, std::string, std::less<>> map_;
};

bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

// A file of the model must lie in its directory, or, where it is a link, in the folder to which the Hugging Face
// cache links: <repository>/snapshots/<revision>/file -> <repository>/blobs/<hash>.
Result<void> check_inside(const std::filesystem::path& directory, const std::filesystem::path& file) {
  std::error_code failure;
  const std::filesystem::path home = std::filesystem::canonical(directory, failure);
  if (failure) return not_found(directory.string() + ": " + failure.message());
  const std::filesystem::path target = std::filesystem::canonical(file, failure);
  if (failure) return not_found(file.string() + ": " + failure.message());
  if (target.parent_path() == home) return {};
  const bool is_cache = home.parent_path().filename() == "snapshots";
  if (is_cache && target.parent_path() == home.parent_path().parent_path() / "blobs") return {};
  return corrupt_data(file.string() + ": the link leads to " + target.string() +
                      ", outside the model's directory; copy the file there");
}

Result<void> check_shape(std::span<const std::uint64_t> shape, const TensorSlice& slice, const std::string& place) {
  const std::vector<std::uint64_t> expected =
      slice.is_vector ? std::vector<std::uint64_t>{slice.cols} : std::vector<std::uint64_t>{slice.rows, slice.cols};
  if (std::equal(shape.begin(), shape.end(), expected.begin(), expected.end())) return {};
  return corrupt_data(place + ": has the shape " + to_string(shape) + "; the model's config calls for " +
                      to_string(expected));
}

Result<kernels::DType> usable_type(const StoredTensor& tensor, const std::string& place) {
  switch (tensor.type) {
    case StoredType::kF32: return kernels::DType::kF32;
    case StoredType::kF16: return kernels::DType::kF16;
    case StoredType::kBF16: return kernels::DType::kBF16;
    default:
      return unsupported(place + ": is stored as " + std::string(to_string(tensor.type)) +
                         "; supported: F32, F16, BF16");
  }
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::filesystem::path& model, const Limits& limits) {
  Checkpoint checkpoint;
  checkpoint.limits_ = limits;
  std::error_code ignored;
  if (std::filesystem::is_regular_file(model, ignored)) {
    TROUPE_ASSIGN_OR_RETURN(checkpoint.gguf_, GgufFile::open(model, limits));
    return checkpoint;
  }
  checkpoint.directory_ = model;
  const std::filesystem::path index = model / kIndexFile;
  if (std::filesystem::exists(model / kSingleFile, ignored)) return checkpoint;
  if (!std::filesystem::exists(index, ignored)) {
    return not_found(model.string() + ": holds neither " + std::string(kSingleFile) + " nor " +
                     std::string(kIndexFile));
  }
  checkpoint.index_path_ = index;
  TROUPE_RETURN_IF_ERROR(check_inside(model, index));
  TROUPE_ASSIGN_OR_RETURN(const std::string text, read_text_file(index, limits.json_file_bytes, "json_file_bytes"));
  IndexHandler handler(limits);
  TROUPE_RETURN_IF_ERROR(walk_json(text, 0, index.string(), handler));
  if (!handler.complete()) return corrupt_data(index.string() + ": has no weight_map");
  checkpoint.weight_map_ = handler.take();
  for (const auto& [tensor, file] : checkpoint.weight_map_) {
    if (!is_plain_name(file)) {
      return corrupt_data(index.string() + ": tensor '" + printable(tensor) + "' is said to be in '" + printable(file) +
                          "'; only files of the same directory are allowed");
    }
  }
  return checkpoint;
}

Result<const SafetensorsFile*> Checkpoint::file(const std::string& name) {
  if (const auto open = files_.find(name); open != files_.end()) return open->second.get();
  if (files_.size() == limits_.model_shards) {
    return resource_exhausted(index_path_.string() + ": names more than " + std::to_string(limits_.model_shards) +
                                  " files (limit model_shards)",
                              "model_shards");
  }
  const std::filesystem::path path = directory_ / name;
  TROUPE_RETURN_IF_ERROR(check_inside(directory_, path));
  TROUPE_ASSIGN_OR_RETURN(auto file, SafetensorsFile::open(path, limits_));
  return files_.emplace(name, std::move(file)).first->second.get();
}

Result<Checkpoint::Located> Checkpoint::locate_in_gguf(const TensorSlice& slice) {
  const bool tied = gguf_->find(gguf_name(TensorRole::kLmHead, 0, false)) == nullptr;
  const std::string name = gguf_name(slice.role, slice.layer, tied);
  const GgufTensor* tensor = gguf_->find(name);
  if (tensor == nullptr) {
    return corrupt_data(gguf_->place() + ": tensor '" + name + "' is missing; the architecture calls for it");
  }
  const std::string place = gguf_->place() + ": tensor '" + name + "' at offset " + std::to_string(tensor->begin);
  TROUPE_RETURN_IF_ERROR(check_shape(tensor->shape(), slice, place));
  const auto dtype = dtype_of(*tensor->type);
  if (!dtype) {
    return unsupported(place + ": is stored as " + std::string(tensor->type->name) +
                       "; supported: " + std::string(kReadableGgmlTypes));
  }
  return Located{gguf_->bytes(*tensor).data(), *dtype};
}

Result<Checkpoint::Located> Checkpoint::locate(const TensorSlice& slice) {
  if (gguf_) return locate_in_gguf(slice);
  std::string file_name(kSingleFile);
  if (!index_path_.empty()) {
    const auto entry = weight_map_.find(slice.name);
    if (entry == weight_map_.end()) {
      return corrupt_data(index_path_.string() + ": tensor '" + slice.name + "' is not in weight_map");
    }
    file_name = entry->second;
  }
  TROUPE_ASSIGN_OR_RETURN(const SafetensorsFile* file, this->file(file_name));
  const StoredTensor* tensor = file->find(slice.name);
  if (tensor == nullptr) {
    return corrupt_data(file->path().string() + ": tensor '" + slice.name + "' is missing; config.json calls for it");
  }
  const std::string place =
      file->path().string() + ": tensor '" + slice.name + "' at offset " + std::to_string(tensor->begin);
  TROUPE_RETURN_IF_ERROR(check_shape(tensor->shape, slice, place));
  TROUPE_ASSIGN_OR_RETURN(const kernels::DType dtype, usable_type(*tensor, place));
  return Located{file->bytes(*tensor).data(), dtype};
}

Result<std::uint64_t> Checkpoint::bytes_of(std::span<const TensorSlice> slices) {
  std::uint64_t bytes = 0;
  for (const TensorSlice& slice : slices) {
    TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
    bytes += slice.elements() * kernels::size_of(whole.dtype);
  }
  return bytes;
}

Result<std::vector<std::span<const std::byte>>> Checkpoint::places_of(std::span<const TensorSlice> slices) {
  std::vector<std::span<const std::byte>> places;
  places.reserve(slices.size());
  for (const TensorSlice& slice : slices) {
    TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
    const std::size_t row_bytes = slice.cols * kernels::size_of(whole.dtype);
    places.emplace_back(whole.data + row_bytes * slice.row_range.first, row_bytes * slice.row_range.size());
  }
  return places;
}

Result<LoadedMatrix> Checkpoint::matrix(const TensorSlice& slice) {
  TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
  const std::size_t size = kernels::size_of(whole.dtype);
  const std::size_t rows = slice.row_range.size();
  const std::size_t cols = slice.col_range.size();
  const std::byte* first = whole.data + (slice.row_range.first * slice.cols + slice.col_range.first) * size;
  LoadedMatrix loaded{{first, whole.dtype, rows, cols, slice.cols}, nullptr};
  if (reinterpret_cast<std::uintptr_t>(first) % size != 0) {
    loaded.copy = std::make_unique_for_overwrite<std::byte[]>(rows * cols * size);
    for (std::size_t row = 0; row < rows; ++row) {
      std::memcpy(loaded.copy.get() + row * cols * size, first + row * slice.cols * size, cols * size);
    }
    loaded.view.data = loaded.copy.get();
    loaded.view.row_stride = cols;
  }
  bytes_read_ += rows * cols * size;
  return loaded;
}

Result<std::vector<float>> Checkpoint::vector(const TensorSlice& slice) {
  TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
  const std::size_t size = kernels::size_of(whole.dtype);
  const std::byte* first = whole.data + slice.col_range.first * size;
  std::vector<float> values(slice.col_range.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = kernels::load_as_f32(first, whole.dtype, i);  // at any alignment
  }
  bytes_read_ += values.size() * size;
  return values;
}

}  // namespace troupe::model
