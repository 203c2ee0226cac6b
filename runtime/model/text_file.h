#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe::model {

// The whole of a small file. Errors: kNotFound when it cannot be opened, kInvalidArgument when it is no regular file,
// kResourceExhausted beyond max_bytes (naming `limit`), kUnavailable when reading fails.
Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes, std::string_view limit);

}  // namespace troupe::model
