#include "runtime/model/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <system_error>

#include "kernels/cpu/half.h"
#include "runtime/base/log.h"
#include "runtime/model/gguf_tensors.h"
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
  // A projection to one number is a matrix of one row in some files.
  const bool is_projection = slice.role == TensorRole::kSharedRouter;
  if (is_projection && shape.size() == 2 && shape[0] == 1 && shape[1] == slice.cols) return {};
  return corrupt_data(place + ": has the shape " + to_string(shape) + "; the model's config calls for " +
                      to_string(expected));
}

// What Mixtral's checkpoints call the experts' tensors, and nothing for any other.
std::string mixtral_name(const TensorSlice& slice) {
  const std::string moe = "model.layers." + std::to_string(slice.layer) + ".block_sparse_moe.";
  if (slice.role == TensorRole::kRouter) return moe + "gate.weight";
  if (!is_of_an_expert(slice.role)) return {};
  const std::string_view part = slice.role == TensorRole::kExpertGate ? "w1"
                                : slice.role == TensorRole::kExpertUp ? "w3"
                                                                      : "w2";
  return moe + "experts." + std::to_string(slice.expert) + "." + std::string(part) + ".weight";
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

// What the kernels demand of an address; the blocks of GGUF begin with 16-bit numbers.
std::size_t alignment_of(kernels::DType dtype) {
  if (kernels::is_panel_format(dtype)) return 1;  // seen to when the tensor is found
  return kernels::is_block_format(dtype) ? alignof(std::uint16_t) : kernels::size_of(dtype);
}

}  // namespace

std::string scales_name(std::string_view matrix) { return std::string(matrix) + "_scale"; }

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
  TROUPE_ASSIGN_OR_RETURN(const GgufPart part, find_gguf_part(*gguf_, slice));
  TROUPE_RETURN_IF_ERROR(check_shape(part.shape, slice, part.place));
  TROUPE_ASSIGN_OR_RETURN(const kernels::DType dtype, usable_type(part));
  return Located{part.bytes.data(), dtype, nullptr, part.place};
}

// Mixtral's own spelling where the checkpoint has it, else that of tensor_slices, which troupe quantize writes.
Result<std::string> Checkpoint::name_of(const TensorSlice& slice) {
  const std::string mixtral = mixtral_name(slice);
  if (mixtral.empty()) return slice.name;
  if (!index_path_.empty()) return weight_map_.contains(mixtral) ? mixtral : slice.name;
  TROUPE_ASSIGN_OR_RETURN(const SafetensorsFile* file, this->file(std::string(kSingleFile)));
  return file->find(mixtral) != nullptr ? mixtral : slice.name;
}

Result<Checkpoint::Located> Checkpoint::locate(const TensorSlice& slice) {
  if (gguf_) return locate_in_gguf(slice);
  TROUPE_ASSIGN_OR_RETURN(const std::string name, name_of(slice));
  std::string file_name(kSingleFile);
  if (!index_path_.empty()) {
    const auto entry = weight_map_.find(name);
    if (entry == weight_map_.end()) {
      return corrupt_data(index_path_.string() + ": tensor '" + name + "' is not in weight_map");
    }
    file_name = entry->second;
  }
  TROUPE_ASSIGN_OR_RETURN(const SafetensorsFile* file, this->file(file_name));
  const StoredTensor* tensor = file->find(name);
  if (tensor == nullptr) {
    return corrupt_data(file->path().string() + ": tensor '" + name + "' is missing; config.json calls for it");
  }
  const std::string place =
      file->path().string() + ": tensor '" + name + "' at offset " + std::to_string(tensor->begin);
  if (tensor->type == StoredType::kU8 && !slice.is_vector) return locate_panels(*file, *tensor, slice, place);
  TROUPE_RETURN_IF_ERROR(check_shape(tensor->shape, slice, place));
  TROUPE_ASSIGN_OR_RETURN(const kernels::DType dtype, usable_type(*tensor, place));
  return Located{file->bytes(*tensor).data(), dtype, nullptr, place};
}

// A matrix in one of our own formats: bytes of shape (panels, bytes of a panel), and its scales beside it.
Result<Checkpoint::Located> Checkpoint::locate_panels(const SafetensorsFile& file, const StoredTensor& tensor,
                                                      const TensorSlice& slice, const std::string& place) const {
  constexpr std::uint64_t kAlignment = 64;
  const std::uint64_t panels = (slice.rows + kernels::kPanelOuts - 1) / kernels::kPanelOuts;
  const auto shape_of = [&](kernels::DType dtype) {
    return std::vector<std::uint64_t>{panels, kernels::row_bytes(dtype, slice.cols)};
  };
  const bool is_int8 = tensor.shape == shape_of(kernels::DType::kInt8);
  if (!is_int8 && tensor.shape != shape_of(kernels::DType::kInt4)) {
    return corrupt_data(place + ": has the shape " + to_string(tensor.shape) + "; the model's config calls for " +
                        to_string(shape_of(kernels::DType::kInt8)) + " (q8) or " +
                        to_string(shape_of(kernels::DType::kInt4)) + " (q4)");
  }
  if (tensor.begin % kAlignment != 0) {
    return corrupt_data(place + ": must begin at a multiple of " + std::to_string(kAlignment) +
                        " bytes; quantise the model anew");
  }
  const kernels::DType dtype = is_int8 ? kernels::DType::kInt8 : kernels::DType::kInt4;
  Located located{file.bytes(tensor).data(), dtype, nullptr, place};
  if (!is_int8) return located;
  const std::string name = scales_name(slice.name);
  const StoredTensor* scales = file.find(name);
  if (scales == nullptr || scales->type != StoredType::kF32 || scales->shape != std::vector{slice.rows} ||
      scales->begin % alignof(float) != 0) {
    return corrupt_data(file.path().string() + ": tensor '" + name + "' must be in the same file, " +
                        to_string(std::vector{slice.rows}) +
                        " of F32 at a multiple of 4 bytes; quantise the model anew");
  }
  located.scales = reinterpret_cast<const float*>(file.bytes(*scales).data());
  return located;
}

Result<void> Checkpoint::check_grain(const Located& whole, const TensorSlice& slice) const {
  const auto is_whole = [](const Range& range, std::uint64_t grain, std::uint64_t total) {
    return range.first % grain == 0 && (range.last % grain == 0 || range.last == total);
  };
  const std::uint64_t row_grain = kernels::is_panel_format(whole.dtype) ? kernels::kPanelOuts : 1;
  const std::uint64_t col_grain = kernels::block_elements(whole.dtype);
  if (is_whole(slice.row_range, row_grain, slice.rows) && is_whole(slice.col_range, col_grain, slice.cols)) {
    return {};
  }
  const auto shown = [](const Range& range) { return std::to_string(range.first) + "-" + std::to_string(range.last); };
  return invalid_argument(whole.place + ": rows " + shown(slice.row_range) + ", columns " + shown(slice.col_range) +
                          " are asked for, but it is stored in blocks of " + std::to_string(row_grain) + " x " +
                          std::to_string(col_grain) + " elements; use fewer tensor-parallel ranks");
}

std::uint64_t Checkpoint::Located::bytes(std::uint64_t rows, std::uint64_t cols) const {
  return kernels::matrix_bytes(dtype, rows, cols) + (scales != nullptr ? rows * sizeof(float) : 0);
}

Result<std::uint64_t> Checkpoint::bytes_of(std::span<const TensorSlice> slices) {
  std::uint64_t bytes = 0;
  for (const TensorSlice& slice : slices) {
    TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
    bytes += whole.bytes(slice.row_range.size(), slice.col_range.size());
  }
  return bytes;
}

Result<std::vector<kernels::DType>> Checkpoint::dtypes_of(std::span<const TensorSlice> slices) {
  std::vector<kernels::DType> dtypes;
  dtypes.reserve(slices.size());
  for (const TensorSlice& slice : slices) {
    TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
    dtypes.push_back(whole.dtype);
  }
  return dtypes;
}

Result<std::vector<std::span<const std::byte>>> Checkpoint::places_of(std::span<const TensorSlice> slices) {
  std::vector<std::span<const std::byte>> places;
  places.reserve(slices.size());
  for (const TensorSlice& slice : slices) {
    TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
    const auto bytes_before = [&](std::uint64_t row) {
      return kernels::is_panel_format(whole.dtype) ? kernels::matrix_bytes(whole.dtype, row, slice.cols)
                                                   : whole.bytes(row, slice.cols);
    };
    const std::uint64_t begin = bytes_before(slice.row_range.first);
    places.emplace_back(whole.data + begin, bytes_before(slice.row_range.last) - begin);
  }
  return places;
}

Result<LoadedMatrix> Checkpoint::matrix(const TensorSlice& slice) {
  TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
  TROUPE_RETURN_IF_ERROR(check_grain(whole, slice));
  const std::size_t rows = slice.row_range.size();
  const std::size_t cols = slice.col_range.size();
  bytes_read_ += whole.bytes(rows, cols);
  const kernels::WeightView all{whole.data, whole.dtype, slice.rows, slice.cols, slice.cols, whole.scales};
  LoadedMatrix loaded{kernels::slice(all, slice.row_range.first, rows, slice.col_range.first, cols), nullptr};
  if (reinterpret_cast<std::uintptr_t>(loaded.view.data) % alignment_of(whole.dtype) == 0) return loaded;

  const std::size_t stride = whole.bytes(1, slice.cols);  // from row to row in the file
  const std::byte* from = whole.data + slice.row_range.first * stride + whole.bytes(1, slice.col_range.first);
  const std::size_t row_bytes = kernels::row_bytes(whole.dtype, cols);
  loaded.copy = std::make_unique_for_overwrite<std::byte[]>(rows * row_bytes);
  loaded.view = {loaded.copy.get(), whole.dtype, rows, cols, cols};
  for (std::size_t row = 0; row < rows; ++row) {
    std::memcpy(loaded.copy.get() + row * row_bytes, from + row * stride, row_bytes);
  }
  return loaded;
}

Result<std::vector<float>> Checkpoint::vector(const TensorSlice& slice) {
  TROUPE_ASSIGN_OR_RETURN(const Located whole, locate(slice));
  if (kernels::is_quantised(whole.dtype)) {
    return unsupported(whole.place + ": norms and biases are supported in F32, F16 and BF16");
  }
  const std::byte* first = whole.data + whole.bytes(1, slice.col_range.first);
  std::vector<float> values(slice.col_range.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = kernels::load_as_f32(first, whole.dtype, i);  // at any alignment
  }
  bytes_read_ += whole.bytes(1, values.size());
  return values;
}

}  // namespace troupe::model
