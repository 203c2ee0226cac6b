#pragma once

#include <unordered_map>

#include "kernels/cuda/gpu_memory.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.h"

namespace troupe::kernels {

// Lets norms write what the products behind them read, so that nothing has to read the norm's result again. Which form
// that is follows from the products that read the result of the same norm before.
//
// Operations that write to matrices, other than norms and products, call forget(); what is copied to the device is seen
// by its memory. Not thread-safe.
class NormedInput {
 public:
  explicit NormedInput(GpuMemory& memory) : memory_(memory) {}

  // What the norm of this weight writes besides `out`. workspace: where products will look for it, or null.
  PreparedNorm before_norm(const float* weight, ConstMatrixF32 out, std::byte* workspace);
  // Tells the call whether its workspace holds its inputs already.
  void before_products(LinearCall& call);
  void forget() { norm_ = nullptr; }

 private:
  GpuMemory& memory_;
  std::unordered_map<const float*, InputForm> forms_;  // by the norm's weight: that of the first product behind it
  // The latest norm and its result; null when the workspace, or the result, has changed since.
  const float* norm_ = nullptr;
  ConstMatrixF32 out_;
  bool is_prepared_ = false;
  bool is_read_ = false;
  InputForm form_ = InputForm::kBf16;
};

}  // namespace troupe::kernels
