@0xb2a1c7d3e4f50633;
# An operating error that crosses an actor boundary: always reaches whoever asked.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

struct ErrorInfo {
  code @0 :Code;
  message @1 :Text;         # what happened, to which file, key, peer or parameter, and what to do
  param @2 :Text;           # the request parameter at fault, or empty
  retryAfterMs @3 :UInt32;  # with resourceExhausted: when to ask again; 0 = not known

  enum Code {
    # The same list, in the same order, as troupe::ErrorCode.
    invalidArgument @0;     # the asker's mistake; asking again changes nothing
    notFound @1;
    unavailable @2;         # a member is away; asking again later may succeed
    deadlineExceeded @3;
    resourceExhausted @4;   # a named limit was reached
    corruptData @5;         # a file or frame that is not what it says
    unsupported @6;
    cancelled @7;
    internal @8;
  }
}

struct Outcome {
  # The answer to a request that has no other answer.
  union {
    ok @0 :Void;
    error @1 :ErrorInfo;
  }
}
