#pragma once

#include <caf/actor_control_block.hpp>
#include <caf/error.hpp>
#include <caf/message_id.hpp>

#include <cstddef>
#include <span>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::fabric {

// Answers a request in place of an actor that cannot. Nothing for anything that is not a request.
void fail_request(const caf::strong_actor_ptr& sender, caf::message_id id, caf::error reason);

// Errors cross the wire as code, category and the text of their context.
std::vector<std::byte> encode_error(const caf::error& error);
Result<caf::error> decode_error(std::span<const std::byte> bytes);

}  // namespace troupe::fabric
