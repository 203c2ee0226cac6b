#include "kernels/cpu/panel_product.h"

#include <algorithm>
#include <bitset>
#include <cassert>
#include <numeric>

namespace troupe::kernels {
namespace {

constexpr std::size_t kRowBlock = 128;  // a multiple of PanelWeight::kPreparedRows
constexpr std::size_t kMaxPanels = 4;   // of a piece, unless that is too little work or some must stay together

// A piece of work below this many multiply-adds is not worth another thread's attention (some microseconds).
constexpr std::size_t kPieceMultiplyAdds = 32 * 1024;

// Pieces for each member: with fewer, one that lags behind holds up the rest for too long.
constexpr std::size_t kPiecesPerMember = 4;

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

// Grows only: a step of a size seen before takes no memory.
std::byte* grown(std::vector<AlignedBlock>& memory, std::size_t bytes) {
  const std::size_t blocks = divide_up(bytes, sizeof(AlignedBlock));
  if (memory.size() < blocks) memory.resize(blocks);
  return reinterpret_cast<std::byte*>(memory.data());
}

const std::byte* data_of(const std::vector<AlignedBlock>& memory) {
  return reinterpret_cast<const std::byte*>(memory.data());
}

const PanelWeight& panels_of(const LinearWeight& linear) {
  assert(dynamic_cast<const PanelWeight*>(linear.weight) != nullptr);
  return static_cast<const PanelWeight&>(*linear.weight);
}

// Panels whose sums lie side by side.
struct PanelRange {
  std::size_t first = 0;
  std::size_t count = 0;
};

void add_bias(const PanelLayout& layout, PanelRange panels, const float* bias, std::size_t rows, float* sums,
              std::size_t row_stride) {
  for (std::size_t i = 0; i < panels.count; ++i) {
    const float* of_panel = bias + layout.first_out(panels.first + i);
    const std::size_t outs = layout.outs(panels.first + i);
    for (std::size_t row = 0; row < rows; ++row) {
      float* to = sums + row * row_stride + i * layout.panel_outs();
      for (std::size_t out = 0; out < outs; ++out) to[out] += of_panel[out];
    }
  }
}

// Takes out what fills up the panels of groups.
void close_gaps(const PanelLayout& layout, PanelRange panels, std::size_t rows, float* sums, std::size_t row_stride) {
  for (std::size_t row = 0; row < rows; ++row) {
    float* to = sums + row * row_stride;
    for (std::size_t i = 0; i < panels.count; ++i) {
      const float* from = sums + row * row_stride + i * layout.panel_outs();
      const std::size_t outs = layout.outs(panels.first + i);
      if (to != from) std::copy_n(from, outs, to);
      to += outs;
    }
  }
}

}  // namespace

PanelProduct::Plan PanelProduct::make_plan(ConstMatrixF32 in, std::span<const ProductPart> parts, std::size_t group) {
  std::size_t all_panels = 0;
  std::size_t panel_outs = 0;
  std::size_t together = 1;
  std::bitset<kInputFormats> done;
  for (const ProductPart& part : parts) {
    all_panels += panels_of(part.first).layout().panels();
    if (group != 0) together = std::lcm(together, panels_of(part.first).layout().panels_per_group());
    for (const LinearWeight* linear : {&part.first, &part.second}) {
      if (linear->weight == nullptr) continue;
      const PanelWeight& weight = panels_of(*linear);
      assert(in.cols == weight.cols());
      panel_outs = std::max(panel_outs, weight.layout().panel_outs());
      if (!done[static_cast<std::size_t>(weight.input_format())]) prepare(in, weight);
      done.set(static_cast<std::size_t>(weight.input_format()));
    }
  }
  Plan plan;
  plan.row_blocks = divide_up(in.rows, kRowBlock);
  const std::size_t fair = all_panels * plan.row_blocks / (kPiecesPerMember * team_.size());
  const std::size_t panel_work = std::min(in.rows, kRowBlock) * in.cols * panel_outs;
  const std::size_t worthwhile = std::min(all_panels, kPieceMultiplyAdds / std::max<std::size_t>(1, panel_work));
  const std::size_t panels = std::max(worthwhile, std::clamp<std::size_t>(fair, 1, kMaxPanels));
  plan.has_groups = group != 0;
  plan.panels = divide_up(panels, together) * together;
  for (const ProductPart& part : parts) {
    plan.pieces += divide_up(panels_of(part.first).layout().panels(), plan.panels) * plan.row_blocks;
  }
  const std::size_t sums = std::min(in.rows, kRowBlock) * plan.panels * panel_outs;
  for (auto& memory : sums_) grown(memory, 2 * sums * sizeof(float));
  return plan;
}

void PanelProduct::prepare(ConstMatrixF32 in, const PanelWeight& weight) {
  const std::size_t bytes = weight.prepared_bytes(in.rows);
  if (bytes == 0) return;
  std::byte* prepared = grown(prepared_[static_cast<std::size_t>(weight.input_format())], bytes);
  team_.run(divide_up(in.rows, PanelWeight::kPreparedRows),
            [&](std::size_t block, std::size_t) { weight.prepare(in, block * PanelWeight::kPreparedRows, prepared); });
}

PanelSums PanelProduct::multiply(ConstMatrixF32 in, std::span<const ProductPart> parts, const Plan& plan,
                                 std::size_t piece, std::size_t member) {
  PanelSums sums;
  const auto pieces_of = [&](const ProductPart& part) {
    return divide_up(panels_of(part.first).layout().panels(), plan.panels) * plan.row_blocks;
  };
  for (; piece >= pieces_of(parts[sums.part]); ++sums.part) piece -= pieces_of(parts[sums.part]);
  const ProductPart& part = parts[sums.part];
  const PanelLayout& layout = panels_of(part.first).layout();

  PanelRange panels{.first = piece / plan.row_blocks * plan.panels};
  panels.count = std::min(plan.panels, layout.panels() - panels.first);
  sums.first_row = piece % plan.row_blocks * kRowBlock;
  sums.rows = std::min(kRowBlock, in.rows - sums.first_row);
  sums.first_out = layout.first_out(panels.first);
  for (std::size_t i = 0; i < panels.count; ++i) sums.outs += layout.outs(panels.first + i);
  sums.group_stride = layout.panels_per_group() * layout.panel_outs();
  sums.row_stride = plan.panels * layout.panel_outs();
  sums.data = reinterpret_cast<float*>(sums_[member].data());
  sums.second = sums.data + sums.rows * sums.row_stride;
  const auto multiply = [&](const LinearWeight& linear, float* to) {
    const PanelWeight& weight = panels_of(linear);
    weight.multiply({in, data_of(prepared_[static_cast<std::size_t>(weight.input_format())])}, sums.first_row,
                    sums.rows, panels.first, panels.count, to, sums.row_stride);
    if (linear.bias != nullptr) add_bias(layout, panels, linear.bias, sums.rows, to, sums.row_stride);
    const bool has_gaps = layout.panels() != divide_up(layout.rows(), layout.panel_outs());
    if (!plan.has_groups && has_gaps) close_gaps(layout, panels, sums.rows, to, sums.row_stride);
  };
  multiply(part.first, sums.data);
  if (part.second.weight != nullptr) multiply(part.second, sums.second);
  return sums;
}

}  // namespace troupe::kernels
