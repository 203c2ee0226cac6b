#pragma once

#include "kernels/kernels.h"
#include "kernels/latent_pages.h"

namespace troupe::kernels {

// Multi-head latent attention in absorbed form: what makes keys and values of a latent is multiplied into queries and
// outputs, so that the latent itself serves as both. For each head, with q of its query, c and r of a position's row:
//   score = scale * (q[0, rank) . c + q[rank, rank + rope_dim) . r)   out = sum of softmax(scores) * c
// Causal, over pages that already hold this step's rows. Plain loops in double: what other implementations are tested
// against.
//
// queries: (rows, num_heads * (rank + rope_dim)). out: (rows, num_heads * rank). shape.num_kv_heads is 1,
// shape.head_dim the row of a token, and there is no sliding window.
void reference_latent_attention(ConstMatrixF32 queries, const PagedLatents& pages, const AttentionBatch& batch,
                                const AttentionShape& shape, MatrixF32 out);

}  // namespace troupe::kernels
