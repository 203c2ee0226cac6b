@0xb2a1c7d3e4f50688;
# Supervisors: who is there, who runs what, and how it is.
#
#   node supervisor --Join------> root supervisor    once, when its fabric is up; answered by Outcome
#   root --Spawn----> node supervisor                answered by Spawned; while an actor loads it sends LoadProgress
#   root --Assemble-> node supervisor -> its actors  when every actor of the plan exists; answered by Outcome
#   root --Drain----> node supervisor                finish what runs, then end the process; answered by Outcome
#   scheduler --Lost--> root                         a step never came back: assemble the replica again
#   launcher --NodeExited-> root                     within the root's process: a node's process has ended
#   anyone --StatsRequest--> anyone                  answered by Stats
#   `troupe status` --ClusterStatusRequest--> root   answered by ClusterStatus
#   `troupe down` --Drain--> root                    answered by Outcome when every node has ended
#
# After a loss the root spawns the lost actors again and assembles their replica under the next epoch; the other
# replicas go on.
# Hello, authentication, heartbeats and credits belong to the fabric's frames (runtime/fabric/frame.h,
# handshake.h): a peer speaks none of this before it has proved the cluster's secret.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

using ActorAddress = import "address.capnp".ActorAddress;
using NodeId = import "address.capnp".NodeId;
using ErrorInfo = import "error.capnp".ErrorInfo;

struct Join {
  node @0 :NodeId;
  endpoint @1 :Text;        # "host:port" on which the node's fabric listens
  pid @2 :UInt32;
}

struct ModelSpec {
  path @0 :Text;            # a Hugging Face directory, as seen by the node
  servedName @1 :Text;      # what clients call it
  maxModelLen @2 :UInt32;
  blockSize @3 :UInt32;     # tokens a KV block
  numBlocks @4 :UInt32;     # KV blocks of every shard of a replica
  maxBatchTokens @5 :UInt32;
  maxBatchSequences @6 :UInt32;
  kvDtype @7 :Text;         # of the KV pages: f32, f16, bf16, int8 or fp8
  packedCache @8 :Text;     # a folder for packed weights, as seen by the node, or empty
  numSwapBlocks @9 :UInt32; # KV blocks of every shard beside the pages, for what was preempted
}

struct LimitSpec {
  # A named limit of runtime/base/limits.h that the topology file overrides.
  name @0 :Text;
  value @1 :UInt64;
}

struct GatewaySpec {
  listen @0 :Text;          # "host:port"
  apiKeyFile @1 :Text;      # or empty
  routing @2 :Routing;
  enum Routing {
    # Which replica answers a request.
    prefix @0;              # where the least is left to compute: by cached prefix and load
    roundRobin @1;
  }
}

struct SchedulerSpec {
  pipelineStages @0 :UInt32;
  replica @1 :UInt32;
  recordFile @2 :Text;      # on its node: keeps what it is told and decides (record.capnp); or empty
  maxGuesses @3 :UInt32;    # of a sequence in a step (step.capnp); 0 = no speculation
  draft @4 :Bool;           # they come from the draft (draft.capnp), which Assemble names; else from the text so far
  lookahead @5 :Bool;       # steps are formed before the tokens of the one before are known (step.capnp)
}

struct StageSpec {
  replica @0 :UInt32;
  stage @1 :UInt32;
  stages @2 :UInt32;
  ranks @3 :UInt32;
}

struct ShardSpec {
  replica @0 :UInt32;
  stage @1 :UInt32;
  stages @2 :UInt32;
  rank @3 :UInt32;
  ranks @4 :UInt32;
  firstLayer @5 :UInt32;    # the shard owns layers [firstLayer, lastLayer)
  lastLayer @6 :UInt32;
  device @7 :Text;          # "cpu:0", "cpu:0-3", "cuda:0"
  exchange @8 :Exchange;    # how the ranks of the stage exchange tensors: the same for all of them
  exchangeReason @9 :Text;  # why, for people
  experts @10 :UInt32;      # actors that hold the routed experts of these layers; 0 = every rank has a part of each
  enum Exchange {
    host @0;                # where they lie: there is one rank, or none computes on a GPU
    staged @1;              # by copies in the host's memory
    nccl @2;                # by NCCL if every rank finds the same library, else staged: each rank has a GPU to itself
  }
}

struct ExpertSpec {
  # An even part of the routed experts of each layer of a stage that has experts.
  replica @0 :UInt32;
  stage @1 :UInt32;
  expert @2 :UInt32;        # which of the stage's expert actors it is
  experts @3 :UInt32;       # how many there are
  firstLayer @4 :UInt32;    # layers [firstLayer, lastLayer), as of the stage's shards
  lastLayer @5 :UInt32;
  device @6 :Text;          # as of a shard
}

struct DraftSpec {
  # A small model that guesses for the one of ModelSpec, whose vocabulary, limits and KV blocks it has.
  path @0 :Text;
  device @1 :Text;          # as of a shard
}

struct Spawn {
  actor @0 :Text;           # the name under which it is published
  model @1 :ModelSpec;
  limits @2 :List(LimitSpec);
  union {
    gateway @3 :GatewaySpec;
    scheduler @4 :SchedulerSpec;
    stage @5 :StageSpec;
    shard @6 :ShardSpec;
    draft @7 :DraftSpec;
    expert @8 :ExpertSpec;
  }
}

struct Spawned {
  actor @0 :Text;
  union {
    ready :group {
      detail @1 :Text;      # a line for people: bytes loaded, address served
    }
    error @2 :ErrorInfo;
  }
}

struct LoadProgress {
  actor @0 :Text;
  bytes @1 :UInt64;         # weights read so far
  totalBytes @2 :UInt64;
  elapsedNs @3 :UInt64;
}

struct Assemble {
  # Who works with whom from now on. An actor forgets everything of earlier epochs. The gateway gets one of each
  # replica: what it says of one leaves the others as they are.
  replica @0 :UInt32;
  epoch @1 :UInt64;         # grows with every assembly of any replica
  actors @2 :List(ActorAddress);    # of the replica, and the gateway
}

struct Lost {
  # Root to the schedulers and the gateway: these actors are away; requests that need them fail or wait.
  # Scheduler to root: these actors did not do their part of a step in time.
  actors @0 :List(Text);
  reason @1 :Text;
}

struct NodeExited {
  node @0 :Text;
  pid @1 :UInt32;
  reason @2 :Text;          # "exit status 1", "killed by signal 9"
}

struct Drain {
  deadlineMs @0 :UInt32;    # what still runs then is cut off with an error event
}

struct StatsRequest {}

struct Stats {
  # What the actor and its process would show on a metrics page.
  actor @0 :Text;
  node @1 :NodeId;
  families @2 :List(MetricFamily);

  struct MetricFamily {
    name @0 :Text;
    help @1 :Text;
    kind @2 :Kind;
    metrics @3 :List(Metric);
    enum Kind { counter @0; gauge @1; histogram @2; }
  }
  struct Metric {
    labels @0 :List(Label);
    value @1 :Float64;                    # counter, gauge; the sum of a histogram
    count @2 :UInt64;                     # of a histogram
    bucketBounds @3 :List(Float64);       # upper bounds, ascending, the last is +Inf
    bucketCounts @4 :List(UInt64);        # cumulative
  }
  struct Label { name @0 :Text; value @1 :Text; }
}

struct ClusterStatusRequest {}

struct ClusterStatus {
  # What the root knows: answered to `troupe status`.
  cluster @0 :Text;
  epoch @1 :UInt64;
  ready @2 :Bool;
  actors @3 :List(ActorStatus);

  struct ActorStatus {
    actor @0 :Text;
    node @1 :Text;
    pid @2 :UInt32;
    device @3 :Text;
    state @4 :Text;                       # starting, loading, ready, lost
    detail @5 :Text;
    restarts @6 :UInt32;
    endpoint @7 :Text;                    # of the node's fabric, and its incarnation: enough to reach the actor
    incarnation @8 :UInt64;
  }
}
