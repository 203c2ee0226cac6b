#pragma once

#include <string>
#include <string_view>

namespace troupe::cluster {

// Writes a verb's result to a file, or to standard output for "-". Returns the exit code: 0, or 1 after saying on
// standard error, in the name of `who`, why it cannot be written.
int write_output(std::string_view who, const std::string& file, std::string_view text);

}  // namespace troupe::cluster
