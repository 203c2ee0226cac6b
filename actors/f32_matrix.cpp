#include "actors/f32_matrix.h"

#include <string>

namespace troupe {

Result<kernels::ConstMatrixF32> read_matrix(schema::Tensor::Reader tensor,
                                            std::span<const fabric::Attachment> attachments, std::size_t least_rows,
                                            std::size_t most_rows, std::size_t cols, std::string_view what) {
  const auto refuse = [&](const std::string& why) { return corrupt_data(std::string(what) + " " + why); };
  const auto shape = tensor.getShape();
  if (tensor.getDtype() != schema::DType::F32 || shape.size() != 2 || shape[0] < least_rows || shape[0] > most_rows ||
      shape[1] != cols) {
    const std::string rows = (least_rows == most_rows ? "" : "at most ") + std::to_string(most_rows);
    return refuse("is not an f32 tensor of (" + rows + ", " + std::to_string(cols) + ")");
  }
  if (tensor.getAttachment() >= attachments.size()) return refuse("names an attachment it lacks");
  const fabric::Attachment& bytes = attachments[tensor.getAttachment()];
  const std::size_t rows = shape[0], expected = rows * cols * sizeof(float);
  if (bytes.size() != expected) {
    return refuse("holds " + std::to_string(bytes.size()) + " bytes, expected " + std::to_string(expected));
  }
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(float) != 0) return refuse("is not aligned");
  return kernels::ConstMatrixF32(reinterpret_cast<const float*>(bytes.data()), rows, cols);
}

void describe_matrix(std::size_t rows, std::size_t cols, std::uint16_t attachment, schema::Tensor::Builder tensor) {
  tensor.setDtype(schema::DType::F32);
  auto shape = tensor.initShape(2);
  shape.set(0, rows);
  shape.set(1, cols);
  tensor.setAttachment(attachment);
}

}  // namespace troupe
