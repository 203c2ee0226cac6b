#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cluster/bench/random_stream.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// The longest length that a request may ask for.
inline constexpr std::uint32_t kMaxLengthTokens = 1 << 24;

// How many tokens a prompt or an answer has: "128" always, "64-256" uniform with both ends meant, "lognormal:M:S" with
// median M and deviation S of the logarithm. A value.
class LengthDistribution {
 public:
  explicit LengthDistribution(std::uint32_t tokens) : low_(tokens), high_(tokens) {}

  // Errors: none of these forms, a length outside 1..kMaxLengthTokens, an empty range, a deviation outside (0, 10].
  static Result<LengthDistribution> parse(std::string_view text);

  // In 1..kMaxLengthTokens.
  std::uint32_t sample(RandomStream& random) const;

  // What parse() takes.
  std::string to_string() const;

 private:
  std::uint32_t low_;  // or the median
  std::uint32_t high_;
  double deviation_ = 0;  // > 0: log-normal
};

}  // namespace troupe::cluster
