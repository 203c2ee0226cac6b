#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "kernels/tensor.h"
#include "runtime/base/result.h"
#include "runtime/fabric/message.h"
#include "schema/tensor.capnp.h"

namespace troupe {

// The matrix of floats that a message carries as an attachment, which has `cols` columns and at least `least_rows` and
// at most `most_rows` rows. It points into the attachment. Errors: kCorruptData for anything else; `what` names it.
Result<kernels::ConstMatrixF32> read_matrix(schema::Tensor::Reader tensor,
                                            std::span<const fabric::Attachment> attachments, std::size_t least_rows,
                                            std::size_t most_rows, std::size_t cols, std::string_view what);

// Says in `tensor` that the attachment of that index is (rows, cols) of floats.
void describe_matrix(std::size_t rows, std::size_t cols, std::uint16_t attachment, schema::Tensor::Builder tensor);

// Adds an attachment of (rows, cols) of floats to the message and describes it in `tensor`, which is part of that
// message. Returns it for the caller to fill before the message is finished; it is not zeroed.
template <class T>
kernels::MatrixF32 attach_matrix(std::size_t rows, std::size_t cols, fabric::MessageBuilder<T>& message,
                                 schema::Tensor::Builder tensor) {
  fabric::Attachment bytes = fabric::Attachment::allocate(rows * cols * sizeof(float));
  const kernels::MatrixF32 matrix(reinterpret_cast<float*>(bytes.mutable_data()), rows, cols);
  describe_matrix(rows, cols, message.attach(std::move(bytes)), tensor);
  return matrix;
}

}  // namespace troupe
