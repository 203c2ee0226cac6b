@0xb2a1c7d3e4f506aa;
# Scheduler and draft: guesses from a small model (Leviathan et al. 2023, arXiv 2211.17192).
#
#   scheduler --DraftRequest--> draft      when the result of a step is back, about its sequences; and when a step begins to
#                                          read prompts, to tell it of those; answered by DraftReply
#
# The scheduler has at most one request of either kind out. It waits for the answer no longer than the guesses are worth, and goes
# on without them after that, or when the draft is gone: what the model samples is the same with and without.
# A draft belongs to no epoch: all it knows is tokens, and it is told which of them were wrong.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

struct DraftRequest {
  released @0 :List(UInt64);        # sequences to forget, applied first; unknown ones are no error

  # One entry a sequence:
  sequences @1 :List(UInt64);
  startPositions @2 :List(UInt32);  # position of the first of its tokens here; what the draft had from there on was wrong
  tokenCounts @3 :List(UInt32);     # >= 1

  tokens @4 :List(UInt32);          # flat: sum(tokenCounts)
  guesses @5 :UInt32;               # of the tokens that come next, wanted for each; 0 = none, it only reads
}

struct DraftReply {
  # One entry a sequence of the request, in its order; empty lists if the draft could do nothing with it.
  lengths @0 :List(UInt32);         # tokens that the draft knows of the sequence now. Less than the scheduler has told:
                                    # it had to forget some, and must be told again from there
  guessCounts @1 :List(UInt32);     # at most as many as wanted: up to the end of an answer; 0 of a sequence that it
                                    # does not know whole
  tokens @2 :List(UInt32);          # flat: sum(guessCounts), the most probable ones
}
