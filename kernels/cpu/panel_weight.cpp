#include "kernels/cpu/panel_weight.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

namespace troupe::kernels {
namespace {

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

// What the system maps is aligned to pages; a huge page needs more.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

PanelLayout::PanelLayout(std::size_t rows, std::size_t group, std::size_t width, std::size_t panel_vectors)
    : rows_(rows),
      group_(group == 0 ? rows : group),
      width_(width),
      panel_vectors_(panel_vectors),
      panels_per_group_(divide_up(group_, panel_outs())),
      vectors_per_group_(divide_up(group_, width)) {
  assert(group_ == 0 || rows % group_ == 0);
}

std::size_t PanelLayout::first_out(std::size_t panel) const {
  return panel / panels_per_group_ * group_ + panel % panels_per_group_ * panel_outs();
}

std::size_t PanelLayout::outs(std::size_t panel) const {
  return std::min(panel_outs(), group_ - panel % panels_per_group_ * panel_outs());
}

std::size_t PanelLayout::first_vector(std::size_t panel) const {
  return panel / panels_per_group_ * vectors_per_group_ + panel % panels_per_group_ * panel_vectors_;
}

std::size_t PanelLayout::vectors(std::size_t panel) const { return divide_up(outs(panel), width_); }

WeightMemory::WeightMemory(std::size_t bytes) : bytes_(bytes), data_(nullptr, Unmap{0}) {
  if (bytes == 0) return;
  const std::size_t spare = bytes >= kHugePage ? kHugePage : 0;
  void* const mapped = ::mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* memory = static_cast<std::byte*>(mapped);
  if (spare != 0) {
    const std::size_t lead = (kHugePage - reinterpret_cast<std::uintptr_t>(memory) % kHugePage) % kHugePage;
    const std::size_t page = 4096;
    const std::size_t used = divide_up(bytes, page) * page;
    if (lead != 0) ::munmap(memory, lead);
    const std::size_t tail = divide_up(bytes + spare, page) * page - lead - used;
    if (tail != 0) ::munmap(memory + lead + used, tail);
    memory += lead;
    ::madvise(memory, bytes, MADV_HUGEPAGE);  // in vain on some systems, and only slower there
  }
  data_ = {memory, Unmap{bytes}};
}

void WeightMemory::copy(std::span<const std::byte> image, const std::byte* first, std::size_t bytes) const {
  const auto offset = static_cast<std::size_t>(first - data_.get());
  std::memcpy(data_.get() + offset, image.data() + offset, bytes);
}

void WeightMemory::Unmap::operator()(std::byte* memory) const { ::munmap(memory, bytes); }

}  // namespace troupe::kernels
