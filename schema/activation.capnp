@0xb2a1c7d3e4f50666;
# Stage to stage: the hidden states of a step.
#
# The step travels along, so that a stage needs no second message and no matching of two streams.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

using Step = import "step.capnp".Step;
using StageTiming = import "step.capnp".StageTiming;
using Tensor = import "tensor.capnp".Tensor;

struct Activation {
  step @0 :Step;
  producedBy @1 :UInt32;            # stage whose output `hidden` is
  hidden @2 :Tensor;                # (tokens, hidden_size)
  timings @3 :List(StageTiming);    # of the stages passed so far
}
