#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::text {

// How the pieces of a text become tokens: a vocabulary and a rule. Immutable, thread-safe.
class TokenModel {
 public:
  virtual ~TokenModel() = default;

  // Appends the tokens of one piece. kInvalidArgument when a character has no token and the model no unknown token
  // that exists. REQUIRES: `piece` is UTF-8.
  virtual Result<void> encode(std::string_view piece, std::vector<std::uint32_t>& tokens) const = 0;

  virtual std::optional<std::uint32_t> id_of(std::string_view token) const = 0;
  // nullptr when no token has that id.
  virtual const std::string* token_of(std::uint32_t id) const = 0;
  // Largest id + 1.
  virtual std::size_t size() const = 0;
};

}  // namespace troupe::text
