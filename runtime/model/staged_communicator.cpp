#include "runtime/model/staged_communicator.h"

#include <utility>

#include "runtime/model/arenas.h"

namespace troupe::model {
namespace {

class StagedCommunicator final : public collective::Communicator {
 public:
  StagedCommunicator(std::unique_ptr<collective::Communicator> group, kernels::DeviceMemory& memory)
      : group_(std::move(group)), memory_(memory) {}

  std::uint32_t rank() const override { return group_->rank(); }
  std::uint32_t world_size() const override { return group_->world_size(); }

  Result<void> all_reduce(std::span<float> data) override {
    TROUPE_ASSIGN_OR_RETURN(const std::span<float> staged, fetch(data, 0));
    TROUPE_RETURN_IF_ERROR(group_->all_reduce(staged));
    return put(staged, data);
  }
  Result<void> all_gather(std::span<const float> in, std::span<float> out) override {
    TROUPE_ASSIGN_OR_RETURN(const std::span<float> staged, fetch(in, out.size()));
    const std::span<float> gathered = rest(staged, out.size());
    TROUPE_RETURN_IF_ERROR(group_->all_gather(staged, gathered));
    return put(gathered, out);
  }
  Result<void> reduce_scatter(std::span<const float> in, std::span<float> out) override {
    TROUPE_ASSIGN_OR_RETURN(const std::span<float> staged, fetch(in, out.size()));
    const std::span<float> part = rest(staged, out.size());
    TROUPE_RETURN_IF_ERROR(group_->reduce_scatter(staged, part));
    return put(part, out);
  }
  Result<void> all_to_all(std::span<const float> in, std::span<float> out) override {
    TROUPE_ASSIGN_OR_RETURN(const std::span<float> staged, fetch(in, out.size()));
    const std::span<float> parts = rest(staged, out.size());
    TROUPE_RETURN_IF_ERROR(group_->all_to_all(staged, parts));
    return put(parts, out);
  }
  Result<void> gather(std::span<const float> in, std::span<float> out, std::uint32_t root) override {
    TROUPE_ASSIGN_OR_RETURN(const std::span<float> staged, fetch(in, out.size()));
    const std::span<float> gathered = rest(staged, out.size());
    TROUPE_RETURN_IF_ERROR(group_->gather(staged, gathered, root));
    return put(gathered, out);
  }
  Result<void> check() override { return group_->check(); }
  void abort(std::string_view reason) override { group_->abort(reason); }

 private:
  // A copy of `tensor` with room for `more` floats behind it. Waits for the device.
  Result<std::span<float>> fetch(std::span<const float> tensor, std::size_t more) {
    const std::uint64_t bytes = Arena::rounded((tensor.size() + more) * sizeof(float));
    if (bytes > staging_.capacity()) {
      TROUPE_ASSIGN_OR_RETURN(staging_, Arena::create(bytes, "staged collectives", memory_.pinned()));
      staged_ = static_cast<float*>(staging_.take(bytes));
    }
    if (!tensor.empty()) TROUPE_RETURN_IF_ERROR(memory_.download(staged_, tensor.data(), tensor.size_bytes()));
    return std::span<float>(staged_, tensor.size());
  }

  static std::span<float> rest(std::span<float> staged, std::size_t size) {
    return {staged.data() + staged.size(), size};
  }

  Result<void> put(std::span<const float> staged, std::span<float> tensor) {
    memory_.upload(tensor.data(), staged.data(), staged.size_bytes());
    return {};
  }

  const std::unique_ptr<collective::Communicator> group_;
  kernels::DeviceMemory& memory_;
  Arena staging_;
  float* staged_ = nullptr;  // all of it
};

}  // namespace

std::unique_ptr<collective::Communicator> make_staged_communicator(std::unique_ptr<collective::Communicator> group,
                                                                   kernels::DeviceMemory& memory) {
  return std::make_unique<StagedCommunicator>(std::move(group), memory);
}

}  // namespace troupe::model
