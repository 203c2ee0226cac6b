#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

namespace troupe::cluster {

// Reading JSON that somebody else wrote, in which anything may be missing or of another kind.

// The member of that name, or null if `value` is null, no object, or has none.
const boost::json::value* json_member(const boost::json::value* value, std::string_view name);

// The text of a JSON string; empty for anything else.
std::string json_text(const boost::json::value* value);

}  // namespace troupe::cluster
