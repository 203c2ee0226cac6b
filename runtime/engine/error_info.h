#pragma once

#include "runtime/base/result.h"
#include "schema/error.capnp.h"

namespace troupe::engine {

// An Error on its way over an actor boundary and back. A code that is not known here reads as internal.
void write_error(const Error& error, schema::ErrorInfo::Builder to);
Error read_error(schema::ErrorInfo::Reader from);

}  // namespace troupe::engine
