#pragma once

#include <string>

#include "runtime/base/result.h"
#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"
#include "schema/error.capnp.h"

namespace troupe {

// The answer to a request that has no other answer.
fabric::Message<schema::Outcome> outcome_of(const Result<void>& result);
// Of who was asked for an actor: a line for people, or why there is none.
fabric::Message<schema::Spawned> spawned_of(const std::string& actor, const Result<std::string>& detail);

Result<void> read_outcome(const fabric::Message<schema::Outcome>& outcome);

}  // namespace troupe
