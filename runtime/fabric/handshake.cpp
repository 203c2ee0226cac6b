#include "runtime/fabric/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace troupe::fabric {
namespace {

template <std::size_t N>
bool put(char (&field)[N], const std::string& text) {
  if (text.size() > N) return false;
  std::copy(text.begin(), text.end(), field);
  return true;
}

template <std::size_t N>
std::optional<std::string> take(const char (&field)[N]) {
  const char* end = std::find(field, field + N, '\0');
  if (std::any_of(end, field + N, [](char c) { return c != '\0'; })) return std::nullopt;
  if (std::any_of(field, end, [](unsigned char c) { return c <= 0x20 || c >= 0x7f; })) return std::nullopt;
  return std::string(field, end);
}

}  // namespace

Result<IntroductionWire> encode(const Introduction& introduction) {
  IntroductionWire wire;
  wire.incarnation = introduction.node.incarnation;
  wire.fingerprint = introduction.fingerprint;
  wire.connection = introduction.connection;
  wire.credit_bytes = introduction.credit_bytes;
  wire.pieces = introduction.pieces;
  wire.nonce = introduction.nonce;
  if (!valid_node_name(introduction.node.name)) {
    return invalid_argument("node name must be 1 to 64 bytes of [A-Za-z0-9._-]", "node_name");
  }
  put(wire.name, introduction.node.name);
  if (!put(wire.endpoint, introduction.endpoint)) return invalid_argument("endpoint exceeds 128 bytes", "listen");
  return wire;
}

Result<Introduction> decode(const IntroductionWire& wire) {
  auto name = take(wire.name);
  auto endpoint = take(wire.endpoint);
  if (!name || !endpoint || !valid_node_name(*name) || wire.incarnation == 0 || wire.connection == 0 ||
      wire.pieces < kFirstPieces || wire.pieces > kLastPieces) {
    return corrupt_data("malformed introduction");
  }
  return Introduction{{*name, wire.incarnation}, *endpoint,   wire.fingerprint, wire.connection,
                      wire.credit_bytes,         wire.pieces, wire.nonce};
}

Proof prove(std::string_view secret, Role role, const IntroductionWire& caller, const IntroductionWire& listener) {
  std::array<std::uint8_t, 1 + 2 * sizeof(IntroductionWire)> text;
  text[0] = static_cast<std::uint8_t>(role);
  std::memcpy(text.data() + 1, &caller, sizeof(caller));
  std::memcpy(text.data() + 1 + sizeof(caller), &listener, sizeof(listener));
  Proof proof{};
  unsigned length = 0;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), text.data(), text.size(), proof.data(), &length);
  return proof;
}

bool equal(const Proof& a, const Proof& b) { return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0; }

Result<Nonce> random_nonce() {
  Nonce nonce{};
  if (RAND_bytes(nonce.data(), static_cast<int>(nonce.size())) != 1) {
    return internal_error("the system's random generator failed");
  }
  return nonce;
}

Result<std::uint64_t> random_number() {
  std::uint64_t number = 0;
  while (number == 0) {
    if (RAND_bytes(reinterpret_cast<unsigned char*>(&number), sizeof(number)) != 1) {
      return internal_error("the system's random generator failed");
    }
  }
  return number;
}

}  // namespace troupe::fabric
