#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/kernels.h"

namespace troupe::kernels {

// Cuts the outputs of a weight into panels, the pieces in which it is stored and multiplied. Outputs that belong
// together (the rows of a head) begin with a panel of their own, so that whoever multiplies some panels can have all
// of them. A panel holds up to panel_vectors vectors of `width` outputs, filled up with zeros.
class PanelLayout {
 public:
  // group: outputs that belong together, a divisor of rows; 0 = they all do.
  PanelLayout(std::size_t rows, std::size_t group, std::size_t width, std::size_t panel_vectors);

  std::size_t rows() const { return rows_; }
  std::size_t panel_outs() const { return width_ * panel_vectors_; }
  std::size_t panels() const { return groups() * panels_per_group_; }
  std::size_t panels_per_group() const { return panels_per_group_; }
  std::size_t vectors() const { return groups() * vectors_per_group_; }

  std::size_t first_out(std::size_t panel) const;
  std::size_t outs(std::size_t panel) const;
  std::size_t first_vector(std::size_t panel) const;
  std::size_t vectors(std::size_t panel) const;  // of one panel

 private:
  std::size_t groups() const { return group_ == 0 ? 0 : rows_ / group_; }

  std::size_t rows_;
  std::size_t group_;
  std::size_t width_;
  std::size_t panel_vectors_;
  std::size_t panels_per_group_;
  std::size_t vectors_per_group_;
};

// What the inner loop of a weight reads. Weights of one format can share what one of them has prepared.
enum class InputFormat : std::uint8_t { kFloats, kBf16Parts };
constexpr std::size_t kInputFormats = 2;

// Memory that grows in cache lines.
struct alignas(64) AlignedBlock {
  std::byte bytes[64];
};

// The rows that a weight is multiplied with: as floats, and as the weight has prepared them.
struct PanelInput {
  ConstMatrixF32 rows;
  const std::byte* prepared = nullptr;
};

// A packed weight that can be multiplied panel by panel, by several threads at once.
class PanelWeight : public PackedWeight {
 public:
  // prepare() is called for so many rows at a time (fewer at the end).
  static constexpr std::size_t kPreparedRows = 16;

  std::size_t rows() const override { return layout_.rows(); }
  std::size_t cols() const override { return cols_; }
  const PanelLayout& layout() const { return layout_; }

  virtual InputFormat input_format() const = 0;

  // Memory that prepare() fills for so many rows of input; 0 where multiply() reads the floats.
  virtual std::size_t prepared_bytes(std::size_t rows) const = 0;

  // Turns rows [first, first + kPreparedRows) of `in` into what the inner loop reads; `prepared` is that of all rows.
  virtual void prepare(ConstMatrixF32 in, std::size_t first, std::byte* prepared) const = 0;

  // sums(rows, panels * panel_outs) = rows [first_row, first_row + rows) of the input times panels [first_panel,
  // first_panel + panels), row_stride apart. first_row is a multiple of kPreparedRows.
  virtual void multiply(const PanelInput& in, std::size_t first_row, std::size_t rows, std::size_t first_panel,
                        std::size_t panels, float* sums, std::size_t row_stride) const = 0;

 protected:
  PanelWeight(const PanelLayout& layout, std::size_t cols) : layout_(layout), cols_(cols) {}

 private:
  PanelLayout layout_;
  std::size_t cols_;
};

// Memory for packed weights, on huge pages where the system gives them. Untouched: the thread that writes a page
// first has it close.
class WeightMemory {
 public:
  explicit WeightMemory(std::size_t bytes);

  std::byte* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }
  std::span<const std::byte> span() const { return {data_.get(), bytes_}; }

  // Copies [first, first + bytes) of an image to the same place.
  void copy(std::span<const std::byte> image, const std::byte* first, std::size_t bytes) const;

 private:
  struct Unmap {
    std::size_t bytes;
    void operator()(std::byte* memory) const;
  };

  std::size_t bytes_;
  std::unique_ptr<std::byte[], Unmap> data_;
};

}  // namespace troupe::kernels
