#pragma once

#include "runtime/base/result.h"
#include "runtime/fabric/message.h"
#include "schema/error.capnp.h"

namespace troupe {

// The answer to a request that has no other answer.
fabric::Message<schema::Outcome> outcome_of(const Result<void>& result);
Result<void> read_outcome(const fabric::Message<schema::Outcome>& outcome);

}  // namespace troupe
