#include "kernels/cuda/normed_input.h"

namespace troupe::kernels {

PreparedNorm NormedInput::before_norm(const float* weight, ConstMatrixF32 out, std::byte* workspace) {
  norm_ = weight;
  out_ = out;
  is_read_ = false;
  memory_.watch(out.data, out.rows * out.row_stride * sizeof(float));
  const auto known = forms_.find(weight);
  is_prepared_ = known != forms_.end() && workspace != nullptr && out.rows > 0;
  if (!is_prepared_) return {};
  form_ = known->second;
  return {true, form_, PreparedLayout(form_, out.rows, out.cols).at(workspace)};
}

void NormedInput::before_products(LinearCall& call) {
  const bool is_of_norm = norm_ != nullptr && !memory_.watched_has_changed() && call.in == out_.data &&
                          call.rows == out_.rows && call.cols == out_.cols && call.in_stride == out_.row_stride;
  if (!is_of_norm) {
    forget();
    return;
  }
  call.is_prepared = is_prepared_;
  call.form = form_;
  if (!is_read_) forms_[norm_] = input_form(call.products[0].weight.dtype);
  is_read_ = true;
  is_prepared_ = true;
  form_ = input_form(call.products[call.num_products - 1].weight.dtype);
}

}  // namespace troupe::kernels
