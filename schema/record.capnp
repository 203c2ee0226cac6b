@0xb2a1c7d3e4f50699;
# A file of `troupe up --record FILE`: what a scheduler's engine was told, in order, and a checksum of each step that
# it decided on. The engine is deterministic, so that `troupe replay FILE` goes through the same decisions again.
#
# The file is a row of RecordEntry messages in Cap'n Proto's stream framing; the first is a header. A file whose last
# message is cut off, as after a crash, counts up to the one before.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

using Generate = import "generate.capnp".Generate;
using DraftReply = import "draft.capnp".DraftReply;
using StepResult = import "step.capnp".StepResult;
using LimitSpec = import "cluster.capnp".LimitSpec;

struct RecordEntry {
  timeNs @0 :UInt64;          # of the scheduler's clock; never goes back
  union {
    header :group {
      version @1 :UInt32;     # 1
      numBlocks @2 :UInt32;   # these as in EngineOptions (runtime/engine/engine.h)
      blockSize @3 :UInt32;
      maxModelLen @4 :UInt32;
      maxBatchTokens @5 :UInt32;
      maxBatchSequences @6 :UInt32;
      pipelineStages @7 :UInt32;
      limits @8 :List(LimitSpec);
      maxGuesses @24 :UInt32;
      usesDraft @25 :Bool;
      numSwapBlocks @30 :UInt32;
      lookahead @31 :Bool;
    }
    admit :group {
      owner @9 :UInt64;       # a gateway's number
      generate @10 :Generate;
      refused @11 :Bool;
    }
    cancel :group {
      owner @12 :UInt64;
      request @13 :UInt64;
    }
    cancelAll @14 :UInt64;    # the owner
    step :group {
      step @15 :UInt64;
      checksum @16 :UInt64;   # FNV-1a of the Step's canonical words
    }
    result @17 :StepResult;
    expire @18 :Void;
    failInFlight @19 :Void;
    failWaiting @20 :UInt64;  # who was admitted before this time
    failAll @21 :Void;
    epoch :group {
      replica @22 :UInt32;
      epoch @23 :UInt64;
    }
    draftAsked @26 :Bool;     # whether there was something to ask it
    guesses @27 :DraftReply;
    draftLost @28 :Void;
    draftLate @29 :Void;      # nobody waits for its answer any more
  }
}
