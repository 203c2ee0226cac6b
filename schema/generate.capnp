@0xb2a1c7d3e4f50644;
# Gateway and scheduler: a request for tokens, and the tokens as they come.
#
#   gateway --Generate--> scheduler        once a request
#   gateway --Cancel----> scheduler        when the client is gone, or a stop string was found
#   gateway <--Deltas---- scheduler        at most one a step, holding every request of that gateway that moved
#
# Every Generate is answered by Deltas until one of them carries a finish other than `none`; a request that is
# refused gets exactly one, with finish `error`. After a Cancel nothing more is sent for the request.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

using ErrorInfo = import "error.capnp".ErrorInfo;

struct LogitBias {
  token @0 :UInt32;
  bias @1 :Float32;             # added to the logit before temperature, -100..100
}

struct Sampling {
  # The token at position p is a pure function of (logits, these fields, seed, p).
  # Order: logit bias, penalties, temperature, top-k, top-p, min-p, draw.
  temperature @0 :Float32 = 1;       # 0 = greedy
  topK @1 :UInt32 = 0;               # 0 = off
  topP @2 :Float32 = 1;              # (0, 1]
  minP @3 :Float32 = 0;              # [0, 1]
  repetitionPenalty @4 :Float32 = 1; # over prompt and generated tokens (Keskar et al. 2019)
  presencePenalty @5 :Float32 = 0;   # over generated tokens
  frequencyPenalty @6 :Float32 = 0;  # over generated tokens
  seed @7 :UInt64;
  logitBias @8 :List(LogitBias);
  logprobs @9 :Bool;                 # report the log-probability of each generated token
  topLogprobs @10 :UInt32;           # and of so many most probable alternatives, <= 20
  promptLogprobs @11 :Bool;          # report them for the prompt's tokens as well
}

struct Generate {
  request @0 :UInt64;           # unique within the gateway's incarnation
  tokens @1 :List(UInt32);      # the prompt; not empty
  maxTokens @2 :UInt32;         # 0 = only read the prompt (for its log-probabilities)
  stopTokens @3 :List(UInt32);  # generation ends with any of these; the token itself is reported
  minTokens @4 :UInt32;         # stop tokens are not sampled before so many tokens
  sampling @5 :Sampling;
  cacheSalt @6 :Text;           # only requests with the same one find each other's tokens in the prefix cache;
                                # empty is a salt like any other
  priority @7 :Int32;           # smaller runs earlier, and may take the place of a larger one that runs; -100..100
  tenant @8 :UInt64;            # whose it is: within a priority the tokens are shared evenly among those who wait.
                                # A number that tells nothing of the API key it stands for; 0 = nobody in particular
  deadlineMs @9 :UInt32;        # after the scheduler's receipt: a request that is not finished then ends with
                                # deadlineExceeded, one whose first token cannot come by then before it begins;
                                # 0 = none, at most 86400000
  # A request of several choices is a Generate for each, sent one right after the other with ascending numbers, and
  # enters the queue as a whole or not at all:
  siblings @10 :UInt32;         # how many follow after this one
  siblingTokens @11 :UInt64;    # prompt tokens of those
  noSpeculation @12 :Bool;      # no guesses for this request; its tokens are the same with them (step.capnp)
}

struct Cancel {
  request @0 :UInt64;
}

struct TokenLogprob {
  token @0 :UInt32;
  logprob @1 :Float32;          # natural logarithm, of the distribution before temperature and truncation
}

struct TokenLogprobs {
  chosen @0 :TokenLogprob;
  top @1 :List(TokenLogprob);   # most probable first
}

enum FinishReason {
  none @0;                      # more will come
  length @1;                    # maxTokens, or the model's maximal length, was reached
  stop @2;                      # a stop token was generated
  error @3;
}

struct Delta {
  request @0 :UInt64;
  tokens @1 :List(UInt32);              # new generated tokens, in order
  logprobs @2 :List(TokenLogprobs);     # one for each of `tokens`, if asked for
  promptLogprobs @3 :List(TokenLogprobs); # for prompt positions 1.., complete, before the first token, if asked for
  finish @4 :FinishReason;
  error @5 :ErrorInfo;                  # with finish = error
  queueNs @6 :UInt64;                   # time between Generate and the first step, with the first token
  cachedTokens @7 :UInt32;              # prompt tokens that were in the KV pages already, with the first token
  guesses @8 :UInt32;                   # that were checked (step.capnp), up to the end of the answer
  acceptedGuesses @9 :UInt32;           # of them, that came true: they are among `tokens`
}

struct Deltas {
  items @0 :List(Delta);
  # What a gateway needs to refuse at once what the scheduler would refuse; not told in answers that know nothing new.
  queueRoom @1 :UInt32 = 0xffffffff;  # requests that the queue still takes
  retryAfterMs @2 :UInt32;            # how long it takes to work off what waits now, 0 = not known
}
