#pragma once

#include <caf/replies_to.hpp>
#include <caf/typed_actor.hpp>

#include "runtime/fabric/message.h"
#include "schema/activation.capnp.h"
#include "schema/cluster.capnp.h"
#include "schema/draft.capnp.h"
#include "schema/error.capnp.h"
#include "schema/expert.capnp.h"
#include "schema/generate.capnp.h"
#include "schema/step.capnp.h"

// Every actor's interface, in the order of a request's path. The .capnp files say what each message must hold.
// A handle that comes by address from the fabric is a plain caf::actor; caf::actor_cast gives it its type, unchecked.
namespace troupe {

template <class T>
using OneWay = caf::reacts_to<fabric::Message<T>>;

template <class Question, class Answer>
using Asked = typename caf::replies_to<fabric::Message<Question>>::template with<fabric::Message<Answer>>;

// 1. HTTP on one side; on the other it sends Generate and Cancel to the scheduler, which answers with Deltas.
using GatewayActor =
    caf::typed_actor<OneWay<schema::Deltas>, OneWay<schema::Lost>, Asked<schema::Assemble, schema::Outcome>,
                     Asked<schema::Drain, schema::Outcome>, Asked<schema::StatsRequest, schema::Stats>>;

// 2. Sends Step to stage 0 and Deltas to whoever sent Generate; StepResult comes from the last stage.
using SchedulerActor =
    caf::typed_actor<OneWay<schema::Generate>, OneWay<schema::Cancel>, OneWay<schema::StepResult>, OneWay<schema::Lost>,
                     Asked<schema::Assemble, schema::Outcome>, Asked<schema::Drain, schema::Outcome>,
                     Asked<schema::StatsRequest, schema::Stats>>;

// 3. Hands Step (stage 0) or Activation (later stages) to its shards; StepResult comes from a shard, on its way to
// the scheduler.
using StageActor =
    caf::typed_actor<OneWay<schema::Step>, OneWay<schema::Activation>, OneWay<schema::StepResult>,
                     Asked<schema::Assemble, schema::Outcome>, Asked<schema::StatsRequest, schema::Stats>>;

// 4. One rank on one device.
using ShardActor =
    caf::typed_actor<OneWay<schema::Step>, OneWay<schema::Activation>, Asked<schema::Assemble, schema::Outcome>,
                     Asked<schema::StatsRequest, schema::Stats>>;

// 5. Some routed experts of a stage; the shards ask.
using ExpertActor = caf::typed_actor<Asked<schema::Dispatch, schema::Combine>, Asked<schema::Assemble, schema::Outcome>,
                                     Asked<schema::StatsRequest, schema::Stats>>;

// Beside 2: guesses tokens for the scheduler with a small model.
using DraftActor =
    caf::typed_actor<Asked<schema::DraftRequest, schema::DraftReply>, Asked<schema::StatsRequest, schema::Stats>>;

// 7. One a node, which takes StatsRequest; the root's also takes Join, Lost and ClusterStatusRequest.
using SupervisorActor =
    caf::typed_actor<Asked<schema::Join, schema::Outcome>, OneWay<schema::Lost>, Asked<schema::Spawn, schema::Spawned>,
                     OneWay<schema::LoadProgress>, Asked<schema::Assemble, schema::Outcome>,
                     Asked<schema::Drain, schema::Outcome>, Asked<schema::StatsRequest, schema::Stats>,
                     Asked<schema::ClusterStatusRequest, schema::ClusterStatus>>;

}  // namespace troupe
