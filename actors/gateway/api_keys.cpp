#include "actors/gateway/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <random>

namespace troupe {
namespace {

constexpr std::size_t kSaltWords = 8;  // of 32 bits

std::string digest(std::string_view text) {
  std::string bytes(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(bytes.data()));
  return bytes;
}

std::string random_salt() {
  std::random_device device;
  std::string salt;
  for (std::size_t i = 0; i < kSaltWords; ++i) {
    const std::uint32_t word = device();
    salt.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  return salt;
}

}  // namespace

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  const std::string salt = random_salt();
  for (const std::string& key : keys) {
    Key& entry = keys_.emplace_back();
    entry.digest = digest(key);
    std::memcpy(&entry.tenant, digest(salt + entry.digest).data(), sizeof entry.tenant);
  }
}

std::optional<std::uint64_t> ApiKeys::tenant_of(std::string_view authorization) const {
  if (keys_.empty()) return 0;
  constexpr std::string_view kScheme = "bearer ";
  const bool is_bearer = authorization.size() > kScheme.size() &&
                         std::equal(kScheme.begin(), kScheme.end(), authorization.begin(), [](char expected, char c) {
                           return expected == (c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
                         });
  const std::string given = digest(is_bearer ? authorization.substr(kScheme.size()) : std::string_view());
  // Digests of equal length, compared in constant time and all of them: how long it takes tells nothing of the keys.
  std::optional<std::uint64_t> tenant;
  for (const Key& key : keys_) {
    if (CRYPTO_memcmp(given.data(), key.digest.data(), key.digest.size()) == 0) tenant = key.tenant;
  }
  return tenant;
}

}  // namespace troupe
