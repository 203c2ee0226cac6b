#include "tests/runtime/model/guarded_kernels.h"

#include <sys/mman.h>

#include <cassert>
#include <map>
#include <utility>
#include <vector>

#include "kernels/cpu/reference.h"

namespace troupe::model::testing {
namespace {

using namespace kernels;

class GuardedMemory final : public DeviceMemory {
 public:
  // Lets the pages be used as long as it lives.
  class Opening {
   public:
    explicit Opening(const GuardedMemory& memory) : memory_(memory) { memory_.protect(PROT_READ | PROT_WRITE); }
    ~Opening() { memory_.protect(PROT_NONE); }
    Opening(const Opening&) = delete;
    Opening& operator=(const Opening&) = delete;

   private:
    const GuardedMemory& memory_;
  };

  bool is_host() const override { return false; }

  Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) override {
    TROUPE_ASSIGN_OR_RETURN(void* const memory, host_memory().allocate(bytes, purpose));
    ranges_[memory] = bytes;
    ::mprotect(memory, bytes, PROT_NONE);
    return memory;
  }
  void release(void* memory, std::uint64_t bytes) override {
    ranges_.erase(memory);
    host_memory().release(memory, bytes);
  }
  Result<MemoryRoom> room() override { return host_memory().room(); }
  MemoryUse use() const override { return host_memory().use(); }
  DeviceMemory& pinned() override { return host_memory(); }
  void upload(void* device, const void* host, std::uint64_t bytes) override { copy(device, host, bytes); }
  Result<void> download(void* host, const void* device, std::uint64_t bytes) override {
    copy(host, device, bytes);
    return {};
  }
  void copy_in(void* device, const void* pinned, std::uint64_t bytes) override { copy(device, pinned, bytes); }
  void copy_out(void* pinned, const void* device, std::uint64_t bytes) override { copy(pinned, device, bytes); }
  void copy(void* to, const void* from, std::uint64_t bytes) override {
    const Opening opening(*this);
    host_memory().copy(to, from, bytes);
  }
  void copy_matrix(ConstMatrixF32 from, MatrixF32 to) override {
    const Opening opening(*this);
    host_memory().copy_matrix(from, to);
  }
  void clear(void* device, std::uint64_t bytes) override {
    const Opening opening(*this);
    host_memory().clear(device, bytes);
  }
  Result<void> synchronize() override { return {}; }
  void notify(std::function<void(Result<void>)> done) override { done({}); }

 private:
  void protect(int protection) const {
    for (const auto& [memory, bytes] : ranges_) ::mprotect(memory, bytes, protection);
  }

  std::map<void*, std::uint64_t> ranges_;
};

class GuardedKernels final : public Kernels {
 public:
  std::string_view name() const override { return "guarded"; }
  DeviceMemory& memory() override { return memory_; }

  Result<std::unique_ptr<PackedWeight>> pack(const WeightView& weight, std::size_t group,
                                             std::span<const std::byte> image, void* place) override {
    return reference_->pack(weight, group, image, place);
  }
  Result<std::unique_ptr<Mixture>> make_mixture(std::span<const ExpertWeights> experts,
                                                const MixtureShape& shape) override {
    return reference_->make_mixture(experts, shape);
  }
  StepRows begin_step(const StepLists& lists) override { return reference_->begin_step(lists); }
  void linear(ConstMatrixF32 in, const LinearWeight& weight, MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->linear(in, weight, out);
  }
  void swiglu(ConstMatrixF32 in, const LinearWeight& gate, const LinearWeight& up, MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->swiglu(in, gate, up, out);
  }
  void project_qkv(ConstMatrixF32 in, const QkvWeights& weights, const Rotary& rotary, MatrixF32 queries,
                   const PagedKv& kv) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->project_qkv(in, weights, rotary, queries, kv);
  }
  void embed(const WeightView& table, std::uint32_t first_row, MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->embed(table, first_row, out);
  }
  void rms_norm(ConstMatrixF32 in, std::span<const float> weight, float eps, MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->rms_norm(in, weight, eps, out);
  }
  void add_rms_norm(ConstMatrixF32 addend, MatrixF32 sum, std::span<const float> weight, float eps,
                    MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->add_rms_norm(addend, sum, weight, eps, out);
  }
  void attention(ConstMatrixF32 queries, const PagedKv& kv, std::size_t shape, MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->attention(queries, kv, shape, out);
  }
  void add(ConstMatrixF32 addend, MatrixF32 sum) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->add(addend, sum);
  }
  void gather_logits_rows(ConstMatrixF32 in, std::size_t first, MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->gather_logits_rows(in, first, out);
  }
  void mix(ConstMatrixF32 in, ConstMatrixF32 router_logits, const Mixture& mixture, const MixtureScratch& scratch,
           MatrixF32 sum) override {
    const GuardedMemory::Opening opening(memory_);
    // The reference takes the host's way through the experts, for which a device's scratch has no matrix.
    routed_.resize(in.rows * in.cols);
    MixtureScratch here = scratch;
    here.routed = {routed_.data(), in.rows, in.cols};
    reference_->mix(in, router_logits, mixture, here, sum);
  }
  void scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) override {
    const GuardedMemory::Opening opening(memory_);
    reference_->scale_by_sigmoid(in, weight, out);
  }

 private:
  GuardedMemory memory_;
  std::unique_ptr<Kernels> reference_ = make_reference_kernels();
  std::vector<float> routed_;
};

}  // namespace

std::unique_ptr<Kernels> make_guarded_kernels() { return std::make_unique<GuardedKernels>(); }

}  // namespace troupe::model::testing
