#pragma once

#include "runtime/base/result.h"
#include "runtime/fabric/message.h"
#include "schema/error.capnp.h"

namespace troupe {

// Error to schema and back.
void write_error(const Error& error, schema::ErrorInfo::Builder out);
Error read_error(schema::ErrorInfo::Reader in);

// The answer to a request that has no other answer.
fabric::Message<schema::Outcome> outcome_of(const Result<void>& result);
Result<void> read_outcome(const fabric::Message<schema::Outcome>& outcome);

}  // namespace troupe
