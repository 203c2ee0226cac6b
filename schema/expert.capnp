@0xb2a1c7d3e4f50677;
# Shard and expert: token rows of a mixture-of-experts layer, out and back.
#
#   shard --Dispatch--> expert      one a layer and expert actor that any token of the step was routed to
#   shard <--Combine--- expert      its answer, in any case
#
# Every rank of a stage routes all tokens, and of R ranks the one of number K mod R asks expert K: so each pair of row
# and expert is computed once, and the sum over the ranks takes it in.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

using ErrorInfo = import "error.capnp".ErrorInfo;
using Fence = import "step.capnp".Fence;
using Tensor = import "tensor.capnp".Tensor;

struct Dispatch {
  fence @0 :Fence;
  layer @1 :UInt32;                 # of the model
  rows @2 :Tensor;                  # f32 (rows, hidden_size), at most maxBatchTokens of them
  # One entry a (row, expert) pair, ascending by expert and then by row, each pair once; a row has at most as many as
  # the model has experts for a token:
  pairRows @3 :List(UInt32);        # index into `rows`
  pairExperts @4 :List(UInt32);     # expert of the layer, one that the receiver holds
  pairWeights @5 :List(Float32);    # router weight
}

struct Combine {
  fence @0 :Fence;                  # that of the Dispatch, as is `layer`
  layer @1 :UInt32;
  rows @2 :Tensor;                  # f32 (rows, hidden_size): the weighted sum over this actor's experts
  failed @3 :Bool;
  error @4 :ErrorInfo;              # with `failed`; then there are no rows. Of another epoch: cancelled
}
