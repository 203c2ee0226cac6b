@0xb2a1c7d3e4f50622;
# Describes bytes that travel beside a message, as one of its attachments.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

enum DType {
  f32 @0;
  f16 @1;
  bf16 @2;
  i8 @3;
  i32 @4;
  u8 @5;
}

struct Tensor {
  # Row-major and contiguous. The receiver checks that the attachment holds exactly
  # product(shape) * size(dtype) bytes before it looks at one of them.
  dtype @0 :DType;
  shape @1 :List(UInt64);     # at most 4 dimensions, outermost first
  attachment @2 :UInt16;      # index into the message's attachments
}
