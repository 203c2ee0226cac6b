@0xb2a1c7d3e4f50677;
# Shard and expert: token rows of a mixture-of-experts layer, out and back.
#
#   shard --Dispatch--> expert      one a layer and expert group that any token of the step was routed to
#   shard <--Combine--- expert

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

using ErrorInfo = import "error.capnp".ErrorInfo;
using Fence = import "step.capnp".Fence;
using Tensor = import "tensor.capnp".Tensor;

struct Dispatch {
  fence @0 :Fence;
  layer @1 :UInt32;
  rows @2 :Tensor;                  # (rows, hidden_size)
  # One entry a (row, expert) pair, sorted by expert:
  pairRows @3 :List(UInt32);        # index into `rows`
  pairExperts @4 :List(UInt32);     # expert of the layer
  pairWeights @5 :List(Float32);    # router weight
}

struct Combine {
  fence @0 :Fence;
  layer @1 :UInt32;
  rows @2 :Tensor;                  # (rows, hidden_size): the weighted sum over this group's experts
  failed @3 :Bool;
  error @4 :ErrorInfo;
}
