#pragma once

#include "runtime/base/result.h"
#include "runtime/engine/engine_options.h"
#include "runtime/engine/sequence.h"
#include "schema/generate.capnp.h"

namespace troupe::engine {

// The sequence that a request asks for, not admitted yet: without id, owner and times. Its length is clipped to what
// the model and the KV pages can hold.
// Errors: kInvalidArgument for a parameter out of range or a prompt that can never fit; param names it.
Result<Sequence> read_request(schema::Generate::Reader generate, const EngineOptions& options);

}  // namespace troupe::engine
