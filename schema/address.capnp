@0xb2a1c7d3e4f50611;
# Where a message goes.
#
# A node is one process of the cluster. Its incarnation is a random number drawn at process start: a
# message addressed to an earlier life of a node is dropped and counted, never delivered.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::schema");

struct NodeId {
  name @0 :Text;            # as in the topology file; at most 64 bytes of [A-Za-z0-9._-]
  incarnation @1 :UInt64;   # never 0
}

struct ActorAddress {
  # A well-known actor: published by its node under a name that is unique in the cluster, such as
  # "gateway", "scheduler/0", "stage/0/1" (replica 0, stage 1), "shard/0/1/0" (replica, stage, rank) or "expert/0/1/0"
  # (replica, stage, number).
  node @0 :NodeId;
  actor @1 :Text;
  endpoint @2 :Text;        # "host:port" on which the fabric of that node listens
}
