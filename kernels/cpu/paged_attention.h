#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Kernels::attention in pieces that a team shares. A piece is some rows of one sequence with the heads of one KV head,
// so that a page is read once for all of them. Where there are too few of those to go round (decoding), the context
// too is cut, and the pieces of a context are put together at the end, always in the same order.
class PagedAttention {
 public:
  PagedAttention(const VectorOps& ops, Team& team) : ops_(ops), team_(team), work_(team.size()) {}

  void run(ConstMatrixF32 queries, const PagedKv& kv, const AttentionBatch& batch, const AttentionShape& shape,
           MatrixF32 out);

 private:
  // Some rows and heads of one sequence.
  struct Tile {
    std::size_t sequence = 0;
    std::size_t first_row = 0;
    std::size_t rows = 0;
    std::size_t first_end = 0;  // positions that the first row sees end here; each further row sees one more
    std::size_t kv_head = 0;
    std::size_t first_head = 0;
    std::size_t heads = 0;
    std::size_t first_state = 0;  // of its stretches in shared_, where they are pieces
    std::size_t begin = 0;        // positions that any of its rows sees
    std::size_t end = 0;

    std::size_t first_stretch() const { return begin / kAttendStretch; }
    std::size_t stretches() const { return (end + kAttendStretch - 1) / kAttendStretch - first_stretch(); }
  };
  struct Piece {
    std::size_t tile = 0;
    std::size_t stretch = 0;
  };
  struct Call {
    ConstMatrixF32 queries;
    const PagedKv& kv;
    const AttentionBatch& batch;
    const AttentionShape& shape;
    MatrixF32 out;
  };

  void make_tiles(const Call& call);
  void attend(const Call& call, const Tile& tile, std::size_t stretch, const AttendState& state) const;
  void finish(const Call& call, const Tile& tile, const AttendState& state) const;
  void run_tiles(const Call& call);
  void run_stretches(const Call& call);

  const VectorOps& ops_;
  Team& team_;
  // Of the call at hand; they grow to the largest so far.
  std::vector<Tile> tiles_;
  std::vector<Piece> pieces_;
  std::vector<float> shared_;             // states of pieces_
  std::vector<std::vector<float>> work_;  // (members): two states each
};

}  // namespace troupe::kernels
