#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

// The API keys of a gateway, of which it keeps digests only. Thread-safe.
class ApiKeys {
 public:
  // No keys: everybody may come, and all are one tenant.
  explicit ApiKeys(const std::vector<std::string>& keys);

  // Whose the request with this Authorization header is: nothing without a valid "Bearer KEY", 0 when no key is needed,
  // else a number of the key. It is salted anew in each process, so that it tells nothing of the key.
  std::optional<std::uint64_t> tenant_of(std::string_view authorization) const;

 private:
  struct Key {
    std::string digest;
    std::uint64_t tenant;
  };

  std::vector<Key> keys_;
};

}  // namespace troupe
