#include "kernels/cuda/cublaslt.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <compare>
#include <map>
#include <string>
#include <utility>

namespace troupe::kernels {
namespace {

// The library's functions, by their names.
struct Functions {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
};

const std::string kLibrary = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);

struct Close {
  void operator()(void* library) const { ::dlclose(library); }
};
using Library = std::unique_ptr<void, Close>;

template <class Function>
bool find(const Library& library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library.get(), name));
  return function != nullptr;
}

Result<Functions> find_all(const Library& library) {
  Functions f;
  const bool found = find(library, "cublasLtCreate", f.create) && find(library, "cublasLtDestroy", f.destroy) &&
                     find(library, "cublasLtGetStatusString", f.status_string) &&
                     find(library, "cublasLtMatmul", f.matmul) &&
                     find(library, "cublasLtMatmulDescCreate", f.desc_create) &&
                     find(library, "cublasLtMatmulDescDestroy", f.desc_destroy) &&
                     find(library, "cublasLtMatmulDescSetAttribute", f.desc_set) &&
                     find(library, "cublasLtMatrixLayoutCreate", f.layout_create) &&
                     find(library, "cublasLtMatrixLayoutDestroy", f.layout_destroy) &&
                     find(library, "cublasLtMatmulPreferenceCreate", f.preference_create) &&
                     find(library, "cublasLtMatmulPreferenceDestroy", f.preference_destroy) &&
                     find(library, "cublasLtMatmulPreferenceSetAttribute", f.preference_set) &&
                     find(library, "cublasLtMatmulAlgoGetHeuristic", f.heuristic);
  if (!found) return unavailable(kLibrary + " lacks a function (" + ::dlerror() + "): reinstall CUDA's libraries");
  return f;
}

// What decides which of the library's kernels is taken.
struct Shape {
  DType dtype;
  std::size_t rows, cols, outs;
  std::size_t in_stride, weight_stride, out_stride;
  std::uint32_t out_alignment;
  bool has_bias;
  auto operator<=>(const Shape&) const = default;
};

// The library's types for a product: of operands, of sums, of the result and of what it is scaled with.
struct Types {
  const char* name;
  cudaDataType_t in;
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int min_compute_capability;
};

Types types_of(DType dtype) {
  switch (dtype) {
    case DType::kI8: return {"INT8", CUDA_R_8I, CUBLAS_COMPUTE_32I, CUDA_R_32I, 80};
    case DType::kE4M3: return {"FP8", CUDA_R_8F_E4M3, CUBLAS_COMPUTE_32F, CUDA_R_32F, kMinFp8Capability};
    default: return {"BF16", CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F, 80};
  }
}

// Of the GPU that this thread uses.
Result<void> check_device(const Types& types) {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    return internal_error("cuBLASLt: the GPU does not tell its compute capability");
  }
  if (major * 10 + minor >= types.min_compute_capability) return {};
  return unsupported("this GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                     ", and " + types.name + " products need " + std::to_string(types.min_compute_capability / 10) +
                     "." + std::to_string(types.min_compute_capability % 10) + ": multiply in BF16");
}

// An object of the library and the function that ends it.
template <class Handle>
class Owned {
 public:
  Owned() = default;
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)), destroy_(other.destroy_) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(destroy_, other.destroy_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) destroy_(handle_);
  }

  Handle get() const { return handle_; }
  // Where a create function puts the handle.
  Handle* room(cublasStatus_t (*destroy)(Handle)) {
    destroy_ = destroy;
    return &handle_;
  }

 private:
  Handle handle_ = nullptr;
  cublasStatus_t (*destroy_)(Handle) = nullptr;
};

// A product of one shape, prepared.
struct Plan {
  Owned<cublasLtMatmulDesc_t> product;
  Owned<cublasLtMatrixLayout_t> weight, in, out;
  cublasLtMatmulAlgo_t algorithm;
};

class LoadedCublasLt final : public CublasLt {
 public:
  LoadedCublasLt(Library library, const Functions& functions, Owned<cublasLtHandle_t> handle)
      : library_(std::move(library)), f_(functions), handle_(std::move(handle)) {}

  Result<void> multiply(Stream stream, const LibraryProduct& product, std::byte* workspace) override {
    const auto address = reinterpret_cast<std::uintptr_t>(product.out) | product.out_stride * sizeof(float);
    const Shape shape{.dtype = product.dtype,
                      .rows = product.rows,
                      .cols = product.cols,
                      .outs = product.outs,
                      .in_stride = product.in_stride,
                      .weight_stride = product.weight_stride,
                      .out_stride = product.out_stride,
                      .out_alignment = address % 16 == 0 ? 16u : 4u,
                      .has_bias = product.bias != nullptr};
    auto known = plans_.find(shape);
    if (known == plans_.end()) {
      if (plans_.size() >= kMostPlans) plans_.clear();
      TROUPE_ASSIGN_OR_RETURN(Plan made, plan(shape));
      known = plans_.emplace(shape, std::move(made)).first;
    }
    const Plan& plan = known->second;
    if (product.bias != nullptr) {
      TROUPE_RETURN_IF_ERROR(
          check(f_.desc_set(plan.product.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias, sizeof product.bias),
                shape));
    }
    const float one = 1, zero = 0;
    const std::int32_t whole_one = 1, whole_zero = 0;
    const bool is_whole = product.dtype == DType::kI8;
    return check(f_.matmul(handle_.get(), plan.product.get(), is_whole ? static_cast<const void*>(&whole_one) : &one,
                           product.weight, plan.weight.get(), product.in, plan.in.get(),
                           is_whole ? static_cast<const void*>(&whole_zero) : &zero, product.out, plan.out.get(),
                           product.out, plan.out.get(), &plan.algorithm, workspace, kWorkspaceBytes,
                           static_cast<cudaStream_t>(stream.handle)),
                 shape);
  }

 private:
  // Chunks of prompts come in many sizes.
  static constexpr std::size_t kMostPlans = 512;
  static constexpr std::uint32_t kInAlignment = 16;

  Result<void> check(cublasStatus_t status, const Shape& shape) const {
    if (status == CUBLAS_STATUS_SUCCESS) return {};
    return internal_error("cuBLASLt: " + std::string(f_.status_string(status)) + " for the " +
                          types_of(shape.dtype).name + " product (" + std::to_string(shape.rows) + ", " +
                          std::to_string(shape.cols) + ") times (" + std::to_string(shape.outs) + ", " +
                          std::to_string(shape.cols) + ") transposed");
  }

  // The library's matrices go by columns: it computes out^T (outs, rows) = weight * in^T.
  Result<Plan> plan(const Shape& shape) const {
    const auto ok = [&](cublasStatus_t status) { return check(status, shape); };
    const Types types = types_of(shape.dtype);
    TROUPE_RETURN_IF_ERROR(check_device(types));
    Plan made;
    TROUPE_RETURN_IF_ERROR(ok(f_.desc_create(made.product.room(f_.desc_destroy), types.compute, types.scale)));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    TROUPE_RETURN_IF_ERROR(
        ok(f_.desc_set(made.product.get(), CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed)));
    if (shape.has_bias) {
      const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
      const cudaDataType_t type = CUDA_R_32F;
      TROUPE_RETURN_IF_ERROR(ok(f_.desc_set(made.product.get(), CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof bias)));
      TROUPE_RETURN_IF_ERROR(
          ok(f_.desc_set(made.product.get(), CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type)));
    }
    TROUPE_RETURN_IF_ERROR(ok(f_.layout_create(made.weight.room(f_.layout_destroy), types.in, shape.cols, shape.outs,
                                               static_cast<std::int64_t>(shape.weight_stride))));
    TROUPE_RETURN_IF_ERROR(ok(f_.layout_create(made.in.room(f_.layout_destroy), types.in, shape.cols, shape.rows,
                                               static_cast<std::int64_t>(shape.in_stride))));
    TROUPE_RETURN_IF_ERROR(ok(f_.layout_create(made.out.room(f_.layout_destroy), types.scale, shape.outs, shape.rows,
                                               static_cast<std::int64_t>(shape.out_stride))));

    Owned<cublasLtMatmulPreference_t> preference;
    TROUPE_RETURN_IF_ERROR(ok(f_.preference_create(preference.room(f_.preference_destroy))));
    const std::size_t workspace_bytes = kWorkspaceBytes;
    TROUPE_RETURN_IF_ERROR(ok(f_.preference_set(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                &workspace_bytes, sizeof workspace_bytes)));
    const std::pair<cublasLtMatmulPreferenceAttributes_t, std::uint32_t> alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kInAlignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kInAlignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.out_alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.out_alignment}};
    for (const auto& [attribute, alignment] : alignments) {
      TROUPE_RETURN_IF_ERROR(ok(f_.preference_set(preference.get(), attribute, &alignment, sizeof alignment)));
    }
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    TROUPE_RETURN_IF_ERROR(ok(f_.heuristic(handle_.get(), made.product.get(), made.weight.get(), made.in.get(),
                                           made.out.get(), made.out.get(), preference.get(), 1, &best, &found)));
    if (found == 0) TROUPE_RETURN_IF_ERROR(check(CUBLAS_STATUS_NOT_SUPPORTED, shape));
    made.algorithm = best.algo;
    return made;
  }

  Library library_;  // outlives what it made
  Functions f_;
  Owned<cublasLtHandle_t> handle_;
  std::map<Shape, Plan> plans_;
};

}  // namespace

Result<std::unique_ptr<CublasLt>> open_cublaslt() {
  Library library(::dlopen(kLibrary.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (library == nullptr) {
    return unavailable("cuBLASLt cannot be loaded (" + std::string(::dlerror()) + "): install CUDA's " + kLibrary +
                       ", or put its folder into LD_LIBRARY_PATH");
  }
  TROUPE_ASSIGN_OR_RETURN(const Functions functions, find_all(library));
  Owned<cublasLtHandle_t> handle;
  const cublasStatus_t status = functions.create(handle.room(functions.destroy));
  if (status != CUBLAS_STATUS_SUCCESS) {
    return unavailable("cuBLASLt does not start: " + std::string(functions.status_string(status)) +
                       "; check that the driver is as new as " + kLibrary);
  }
  return std::unique_ptr<CublasLt>(new LoadedCublasLt(std::move(library), functions, std::move(handle)));
}

}  // namespace troupe::kernels
