#include "cluster/secret.h"

#include <sys/random.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace troupe::cluster {
namespace {

constexpr std::size_t kMinSecretBytes = 16;
constexpr std::size_t kMaxSecretBytes = 4096;

Result<std::string> checked(std::string secret, const std::string& origin) {
  if (secret.size() < kMinSecretBytes || secret.size() > kMaxSecretBytes) {
    return invalid_argument(origin + ": a secret of " + std::to_string(secret.size()) + " bytes; it needs " +
                            std::to_string(kMinSecretBytes) + " to " + std::to_string(kMaxSecretBytes));
  }
  return secret;
}

Result<std::string> read_secret(const std::string& file) {
  struct stat status {};
  if (stat(file.c_str(), &status) != 0) return not_found(file + ": " + std::strerror(errno));
  if ((status.st_mode & 077) != 0) return invalid_argument(file + ": others can read the secret (chmod 600)");
  std::ifstream stream(file);
  std::string line;
  if (!std::getline(stream, line)) return invalid_argument(file + ": holds no secret");
  return checked(line, file);
}

Result<std::string> random_secret() {
  std::array<unsigned char, 32> bytes;
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return internal_error(std::string("getrandom: ") + std::strerror(errno));
  }
  std::string secret;
  for (const unsigned char byte : bytes) {
    secret += "0123456789abcdef"[byte >> 4];
    secret += "0123456789abcdef"[byte & 15];
  }
  return secret;
}

}  // namespace

Result<std::string> cluster_secret(const std::string& file) {
  if (!file.empty()) return read_secret(file);
  if (const char* secret = std::getenv(kSecretVariable); secret != nullptr && *secret != '\0') {
    return checked(secret, std::string("$") + kSecretVariable);
  }
  return random_secret();
}

}  // namespace troupe::cluster
