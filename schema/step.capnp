@0xb2a1c7d3e4f50655;
# Scheduler and stages: one batch through the pipeline.
#
#   scheduler --Step--> stage 0 --Activation--> stage 1 ... last stage --StepResult--> scheduler
#
# Everything is a flat list (struct of arrays) in the field's words, so that a step of 256 sequences is a few
# memory copies. A step that fails anywhere comes back as a StepResult with `error`.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

using ErrorInfo = import "error.capnp".ErrorInfo;
using Sampling = import "generate.capnp".Sampling;
using TokenLogprobs = import "generate.capnp".TokenLogprobs;

const sampledToken :UInt32 = 0xffffffff;
# In Step.tokens: what the step before this one draws for the sequence. Such a step is formed, and may be sent, while the
# result of the one before is not back, so that the stages need not wait for that: its sequence goes on behind the token
# that it is about to get. It stands for one token, the only one of its sequence in the step, which is no guess; the step
# before, by its fence, samples that sequence, without guesses. Only a replica of one shard can be sent such a step,
# because a token is known where it was drawn. At most two steps are in flight then.
#
# A sequence may end with the step before, at a stop token or because nobody wants it any more. Then its row of this step
# is computed in vain: what is drawn for it is no token of it, and its blocks stay its own until both results are
# back. One that the step before ends for certain, by its length, is not in this step. If the step before fails, this one
# does too.

struct Fence {
  # Which life of which replica a message belongs to. A stage or shard that lives in another epoch drops it.
  replica @0 :UInt32;
  epoch @1 :UInt64;         # grows whenever a member of the replica was lost
  step @2 :UInt64;          # grows by one a step within an epoch
}

struct SequenceStart {
  # A sequence that is new to the shards, or begins again after preemption: its block table is empty.
  sequence @0 :UInt64;
  promptLength @1 :UInt32;  # tokens beyond it were generated: penalties tell the two apart
  sampling @2 :Sampling;
  stopTokens @3 :List(UInt32);      # masked while fewer than minTokens tokens are generated
  minTokens @4 :UInt32;             # 0 = no mask, and stopTokens may be left empty
  cachedTokens @5 :List(UInt32);    # its first tokens, if their keys and values are in the first of its new blocks
                                    # already, or are when the step's copies are made: another sequence had the same,
                                    # or it had them itself before. It starts at the position after them
}

struct BlockCopy {
  # Keys and values of one KV block, in every layer that a shard has. Numbers below numBlocks are pages; the next
  # numSwapBlocks lie in memory beside the pages.
  from @0 :UInt32;
  to @1 :UInt32;
}

struct Step {
  fence @0 :Fence;

  # One entry a sequence, in batch order:
  sequences @1 :List(UInt64);
  tokenCounts @2 :List(UInt32);     # new tokens in this step, >= 1
  startPositions @3 :List(UInt32);  # position of the first of them = tokens already in the KV pages, cached or computed
  newBlockCounts @4 :List(UInt32);  # how many of `newBlocks` are appended to this sequence's block table
  sample @5 :List(Bool);            # the last token's logits are sampled in this step

  # Flat, in batch order:
  tokens @6 :List(UInt32);          # sum(tokenCounts); sampledToken where it is not known yet
  newBlocks @7 :List(UInt32);       # sum(newBlockCounts): block-table delta

  starts @8 :List(SequenceStart);   # applied before the step
  released @9 :List(UInt64);        # sequences to forget, applied before `starts`; unknown ones are no error,
                                    # because what a failed step released is released again
  nextTokens @10 :List(UInt32);     # one a sequence: the prompt token that follows this step's tokens, 0 if none;
                                    # with it the last row of a piece of a prompt can be rated.
                                    # Empty when no sequence of the step asked for promptLogprobs
  guessCounts @11 :List(UInt32);    # one a sequence: of its tokenCounts, the last so many are guesses of the tokens that
                                    # will be sampled (Leviathan et al. 2023). Only with `sample`; one token at least is
                                    # none. Empty when there is no guess in the step.
                                    # The last stage samples after the token before the guesses, and goes on for as long
                                    # as what it samples is the guess that follows. The next step of the sequence starts
                                    # behind the guesses that came true: those after them were no tokens of it, and
                                    # their keys and values are overwritten
  copies @12 :List(BlockCopy);      # made one after the other, before anything of the step is computed: of preempted
                                    # sequences out of the pages, of those that go on back to them, and of the last
                                    # block of a beginning that two sequences share
}

struct StageTiming {
  stage @0 :UInt32;
  computeNs @1 :UInt64;     # kernels, on the stage's first rank, and waiting for expert actors
  collectiveNs @2 :UInt64;  # waiting for and exchanging with the other ranks
  copyNs @3 :UInt64;        # making the step's copies, part of computeNs
}

struct StepResult {
  fence @0 :Fence;
  sequences @1 :List(UInt64);       # those that sampled, in batch order
  tokens @2 :List(UInt32);          # flat: sum(tokenCounts), or one each
  logprobs @3 :List(TokenLogprobs); # one for each of `tokens`; empty `top` and NaN for those that did not ask
  promptLogprobs @4 :List(PromptLogprobs);
  timings @5 :List(StageTiming);    # one a stage, in order
  failed @6 :Bool;
  error @7 :ErrorInfo;              # with `failed`; the lists are empty
  tokenCounts @8 :List(UInt32);     # one a sequence: the guesses that came true and the token sampled after them.
                                    # Empty when the step had no guesses: one each

  struct PromptLogprobs {
    # For those prompt positions whose logits this step computed. The logits at position p rate token p + 1.
    sequence @0 :UInt64;
    firstPosition @1 :UInt32;       # position of the first rated token
    items @2 :List(TokenLogprobs);
  }
}
