#pragma once

#include "actors/gateway/json_fields.h"
#include "runtime/base/result.h"
#include "runtime/text/jinja/value.h"

namespace troupe {

// "chat_template_kwargs": further names for the chat template, such as {"enable_thinking": false}; empty when it is
// absent. Errors: kInvalidArgument for anything but an object, and for names that the gateway gives itself;
// kUnsupported for tools and documents.
Result<text::jinja::Dict> read_template_arguments(JsonFields& fields);

}  // namespace troupe
