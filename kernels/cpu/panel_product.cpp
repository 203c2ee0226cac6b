#include "kernels/cpu/panel_product.h"

#include <algorithm>
#include <bitset>

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

}  // namespace

PanelProduct::Plan PanelProduct::make_plan(ConstMatrixF32 in, std::span<const PanelPart> parts, std::size_t together) {
  std::size_t all_panels = 0;
  std::size_t panel_outs = 0;
  std::bitset<kInputFormats> done;
  for (const PanelPart& part : parts) {
    all_panels += part.first->layout().panels();
    for (const PanelWeight* weight : {part.first, part.second}) {
      if (weight == nullptr) continue;
      panel_outs = std::max(panel_outs, weight->layout().panel_outs());
      if (!done[static_cast<std::size_t>(weight->input_format())]) prepare(in, *weight);
      done.set(static_cast<std::size_t>(weight->input_format()));
    }
  }
  Plan plan;
  plan.row_blocks = divide_up(in.rows, kRowBlock);
  const std::size_t fair = all_panels * plan.row_blocks / (kPiecesPerMember * team_.size());
  const std::size_t panel_work = std::min(in.rows, kRowBlock) * in.cols * panel_outs;
  const std::size_t worthwhile = std::min(all_panels, kPieceMultiplyAdds / std::max<std::size_t>(1, panel_work));
  const std::size_t panels = std::max(worthwhile, std::clamp<std::size_t>(fair, 1, kMaxPanels));
  plan.panels = divide_up(panels, together) * together;
  for (const PanelPart& part : parts) {
    plan.pieces += divide_up(part.first->layout().panels(), plan.panels) * plan.row_blocks;
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

PanelSums PanelProduct::multiply(ConstMatrixF32 in, std::span<const PanelPart> parts, const Plan& plan,
                                 std::size_t piece, std::size_t member) {
  PanelSums sums;
  const auto pieces_of = [&](const PanelPart& part) {
    return divide_up(part.first->layout().panels(), plan.panels) * plan.row_blocks;
  };
  for (; piece >= pieces_of(parts[sums.part]); ++sums.part) piece -= pieces_of(parts[sums.part]);
  const PanelPart& part = parts[sums.part];

  sums.first_panel = piece / plan.row_blocks * plan.panels;
  sums.panels = std::min(plan.panels, part.first->layout().panels() - sums.first_panel);
  sums.first_row = piece % plan.row_blocks * kRowBlock;
  sums.rows = std::min(kRowBlock, in.rows - sums.first_row);
  sums.row_stride = plan.panels * part.first->layout().panel_outs();
  sums.data = reinterpret_cast<float*>(sums_[member].data());
  sums.second = sums.data + sums.rows * sums.row_stride;
  const auto multiply = [&](const PanelWeight& weight, float* to) {
    weight.multiply({in, data_of(prepared_[static_cast<std::size_t>(weight.input_format())])}, sums.first_row,
                    sums.rows, sums.first_panel, sums.panels, to, sums.row_stride);
  };
  multiply(*part.first, sums.data);
  if (part.second != nullptr) multiply(*part.second, sums.second);
  return sums;
}

}  // namespace troupe::kernels
