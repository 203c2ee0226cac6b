#include "runtime/model/quantize.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <system_error>
#include <vector>

#include "kernels/cpu/half.h"
#include "kernels/quant.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/config.h"
#include "runtime/model/slice.h"
#include "runtime/model/text_file.h"

namespace troupe::model {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::uint64_t kAlignment = 64;  // of panels in the file
constexpr std::uint64_t kRowsAtOnce = 64 * kernels::kPanelOuts;

// What else makes a model directory: the tokenizer and the rules of generation.
constexpr const char* kCompanions[] = {"generation_config.json",
                                       "tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "tokenizer.model",
                                       "vocab.json",
                                       "merges.txt",
                                       "chat_template.jinja"};

// One tensor of the new file.
struct Entry {
  const TensorSlice* tensor;
  bool is_scales = false;  // of the matrix, not the matrix itself
  kernels::DType dtype = kernels::DType::kF32;
  std::uint64_t bytes = 0;
};

// The panels come first, so that their sizes, multiples of 64, keep them aligned.
std::vector<Entry> entries_of(const std::vector<TensorSlice>& tensors, QuantFormat format) {
  std::vector<Entry> panels, rest;
  for (const TensorSlice& tensor : tensors) {
    if (tensor.is_vector) {
      rest.push_back({&tensor, false, kernels::DType::kF32, tensor.cols * sizeof(float)});
      continue;
    }
    const kernels::DType dtype = quantised_type(format, tensor.role);
    (kernels::is_panel_format(dtype) ? panels : rest)
        .push_back({&tensor, false, dtype, kernels::matrix_bytes(dtype, tensor.rows, tensor.cols)});
    if (dtype == kernels::DType::kInt8) {
      rest.push_back({&tensor, true, kernels::DType::kF32, tensor.rows * sizeof(float)});
    }
  }
  panels.insert(panels.end(), rest.begin(), rest.end());
  return panels;
}

std::string header_of(const std::vector<Entry>& entries) {
  json::object header{{"__metadata__", json::object{{"format", "pt"}}}};
  std::uint64_t offset = 0;
  for (const Entry& entry : entries) {
    const TensorSlice& tensor = *entry.tensor;
    const bool is_panels = kernels::is_panel_format(entry.dtype);
    json::array shape;
    if (is_panels) {
      shape = {(tensor.rows + kernels::kPanelOuts - 1) / kernels::kPanelOuts,
               kernels::row_bytes(entry.dtype, tensor.cols)};
    } else {
      shape = {entry.is_scales ? tensor.rows : tensor.cols};
      if (!entry.is_scales && !tensor.is_vector) shape = {tensor.rows, tensor.cols};
    }
    header[entry.is_scales ? scales_name(tensor.name) : tensor.name] =
        json::object{{"dtype", is_panels ? "U8" : "F32"},
                     {"shape", std::move(shape)},
                     {"data_offsets", json::array{offset, offset + entry.bytes}}};
    offset += entry.bytes;
  }
  std::string text = json::serialize(header);
  const std::uint64_t before = sizeof(std::uint64_t) + text.size();
  text.append((before + kAlignment - 1) / kAlignment * kAlignment - before, ' ');
  return text;
}

// The rows of a matrix as float32.
Result<std::vector<float>> read_rows(Checkpoint& checkpoint, TensorSlice part) {
  TROUPE_ASSIGN_OR_RETURN(const LoadedMatrix loaded, checkpoint.matrix(part));
  if (kernels::is_quantised(loaded.view.dtype)) {
    return invalid_argument("tensor '" + part.name + "' is quantised already; start from the original model");
  }
  const std::size_t cols = loaded.view.cols;
  std::vector<float> values(loaded.view.rows * cols);
  for (std::size_t row = 0; row < loaded.view.rows; ++row) {
    for (std::size_t col = 0; col < cols; ++col) {
      values[row * cols + col] =
          kernels::load_as_f32(loaded.view.data, loaded.view.dtype, row * loaded.view.row_stride + col);
    }
  }
  if (std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) return values;
  return corrupt_data("tensor '" + part.name + "' holds numbers that are not finite, in rows " +
                      std::to_string(part.row_range.first) + " to " + std::to_string(part.row_range.last));
}

// The file being written; what goes wrong is said at the end.
class Writer {
 public:
  explicit Writer(fs::path path) : path_(std::move(path)), file_(path_, std::ios::binary) {}

  void write(const void* data, std::uint64_t bytes) {
    file_.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  }
  Result<void> close() {
    file_.close();
    if (!file_) return unavailable(path_.string() + ": cannot be written; is there room on the disk?");
    return {};
  }

 private:
  fs::path path_;
  std::ofstream file_;
};

// Quantises a matrix in pieces of whole panels.
Result<void> write_panels(Checkpoint& checkpoint, const Entry& entry, Writer& file, std::vector<float>& scales) {
  const TensorSlice& tensor = *entry.tensor;
  scales.assign(entry.dtype == kernels::DType::kInt8 ? tensor.rows : 0, 0.0f);
  for (std::uint64_t first = 0; first < tensor.rows; first += kRowsAtOnce) {
    TensorSlice part = tensor;
    part.row_range = {first, std::min(first + kRowsAtOnce, tensor.rows)};
    TROUPE_ASSIGN_OR_RETURN(const std::vector<float> values, read_rows(checkpoint, part));
    const std::uint64_t rows = part.row_range.size();
    const kernels::ConstMatrixF32 matrix(values.data(), rows, tensor.cols);
    std::vector<std::byte> panels(kernels::matrix_bytes(entry.dtype, rows, tensor.cols));
    if (entry.dtype == kernels::DType::kInt8) {
      kernels::quantize_int8(matrix, panels.data(), std::span(scales).subspan(first, rows));
    } else {
      kernels::quantize_int4(matrix, panels.data());
    }
    file.write(panels.data(), panels.size());
  }
  return {};
}

Result<void> write_config(const fs::path& model, const fs::path& out, QuantFormat format, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const std::string text,
                          read_text_file(model / "config.json", limits.json_file_bytes, "json_file_bytes"));
  json::value config = json::parse(text);  // load_config has read it before
  config.as_object()["quantization_config"] = {{"quant_method", kQuantMethod}, {"format", to_string(format)}};
  const std::string changed = json::serialize(config) + "\n";
  Writer file(out / "config.json");
  file.write(changed.data(), changed.size());
  return file.close();
}

Result<void> make_empty(const fs::path& out) {
  std::error_code failure;
  fs::create_directories(out, failure);
  if (failure) return invalid_argument(out.string() + ": cannot be made: " + failure.message(), "out");
  const bool is_empty = fs::is_empty(out, failure);
  if (failure || !is_empty) return invalid_argument(out.string() + ": is not an empty directory", "out");
  return {};
}

}  // namespace

Result<QuantizeReport> quantize_model(const fs::path& model, const fs::path& out, QuantFormat format,
                                      const QuantizeProgress& progress, const Limits& limits) {
  std::error_code failure;
  if (!fs::is_directory(model, failure)) {
    return invalid_argument(model.string() +
                                ": is no Hugging Face directory; GGUF files have quantised formats of "
                                "their own, which llama-quantize writes",
                            "model");
  }
  TROUPE_ASSIGN_OR_RETURN(const ModelConfig config, load_config(model, limits));
  if (!config.stored_types.empty()) {
    return invalid_argument(model.string() + ": is quantised already; start from the original model", "model");
  }
  TROUPE_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(model, limits));
  std::vector<TensorSlice> tensors = tensor_slices(config, {0, config.num_layers, config.num_layers, 0, 1});
  if (config.tie_word_embeddings) {
    std::erase_if(tensors, [](const TensorSlice& tensor) { return tensor.role == TensorRole::kLmHead; });
  }
  for (const TensorSlice& tensor : tensors) {
    if (tensor.is_vector || tensor.cols <= kernels::kMaxInt8Inputs) continue;
    return unsupported("tensor '" + tensor.name + "' has rows of " + std::to_string(tensor.cols) +
                       " elements; supported: " + std::to_string(kernels::kMaxInt8Inputs));
  }
  QuantizeReport report;
  TROUPE_ASSIGN_OR_RETURN(report.bytes_before, checkpoint.bytes_of(tensors));
  TROUPE_RETURN_IF_ERROR(make_empty(out));

  const std::vector<Entry> entries = entries_of(tensors, format);
  const std::string header = header_of(entries);
  const std::uint64_t header_bytes = header.size();
  Writer file(out / "model.safetensors");
  file.write(&header_bytes, sizeof header_bytes);
  file.write(header.data(), header.size());
  std::map<std::string, std::vector<float>> scales;
  for (const Entry& entry : entries) {
    const TensorSlice& tensor = *entry.tensor;
    report.bytes_after += entry.bytes;
    if (kernels::is_panel_format(entry.dtype)) {
      TROUPE_RETURN_IF_ERROR(write_panels(checkpoint, entry, file, scales[tensor.name]));
    } else if (entry.is_scales) {
      file.write(scales[tensor.name].data(), entry.bytes);
      continue;
    } else {
      TROUPE_ASSIGN_OR_RETURN(const std::vector<float> values,
                              tensor.is_vector ? checkpoint.vector(tensor) : read_rows(checkpoint, tensor));
      file.write(values.data(), entry.bytes);
    }
    if (progress) progress(tensor.name, checkpoint.bytes_read(), report.bytes_before);
  }
  TROUPE_RETURN_IF_ERROR(file.close());
  for (const char* name : kCompanions) {
    if (!fs::exists(model / name, failure)) continue;
    fs::copy_file(model / name, out / name, failure);
    if (failure) return unavailable((out / name).string() + ": cannot be written: " + failure.message());
  }
  TROUPE_RETURN_IF_ERROR(write_config(model, out, format, limits));
  return report;
}

}  // namespace troupe::model
