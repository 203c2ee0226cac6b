#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/fabric/node_id.h"

namespace troupe::fabric {

// How two nodes meet. Fixed binary layouts; nothing else is decoded before the secret is proved both ways.
//
//   caller --kHello {who, nonce}------------------> listener
//   caller <-kChallenge {who, nonce, proof}-------- listener    proof of the listener over both introductions
//   caller --kProof {proof}-----------------------> listener    proof of the caller over the same
//   caller <-kWelcome------------------------------ listener    or kReject {text} at any point
//
// A proof is HMAC-SHA256 under the secret of role, caller's introduction and listener's introduction; the role
// keeps one side's proof from being sent back as the other's, the nonces keep it from being used again.
inline constexpr std::size_t kNonceBytes = 32;
inline constexpr std::size_t kProofBytes = 32;
using Nonce = std::array<std::uint8_t, kNonceBytes>;
using Proof = std::array<std::uint8_t, kProofBytes>;

enum class Role : std::uint8_t { kCaller = 1, kListener = 2 };

struct Introduction {
  NodeId node;
  std::string endpoint;            // on which it listens
  std::uint64_t fingerprint = 0;   // of its MessageTypes
  std::uint64_t connection = 0;    // number that frames to it must carry
  std::uint64_t credit_bytes = 0;  // that it grants in each lane
  std::uint64_t pieces = 0;        // active message number of pieces to it in lane 0; lane 1 has the next
  Nonce nonce{};
};

struct IntroductionWire {
  std::uint64_t incarnation = 0;
  std::uint64_t fingerprint = 0;
  std::uint64_t connection = 0;
  std::uint64_t credit_bytes = 0;
  std::uint64_t pieces = 0;
  Nonce nonce{};
  char name[64] = {};       // padded with zeros
  char endpoint[128] = {};  // padded with zeros
};
static_assert(sizeof(IntroductionWire) == 264);

struct ChallengeWire {
  IntroductionWire introduction;
  Proof proof{};
};
static_assert(sizeof(ChallengeWire) == 296);

Result<IntroductionWire> encode(const Introduction& introduction);
// Errors: kCorruptData (lengths, characters, zero incarnation).
Result<Introduction> decode(const IntroductionWire& wire);

Proof prove(std::string_view secret, Role role, const IntroductionWire& caller, const IntroductionWire& listener);
// In constant time.
bool equal(const Proof& a, const Proof& b);

// From the system's cryptographic generator.
Result<Nonce> random_nonce();
Result<std::uint64_t> random_number();  // never 0

// The active message numbers that connections may have; 0 is for frames.
inline constexpr std::uint64_t kFirstPieces = 2;
inline constexpr std::uint64_t kLastPieces = 65'532;

}  // namespace troupe::fabric
