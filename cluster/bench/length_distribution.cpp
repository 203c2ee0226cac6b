#include "cluster/bench/length_distribution.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

constexpr std::string_view kLogNormal = "lognormal:";
constexpr double kLargestDeviation = 10;

template <class Number>
std::optional<Number> number_of(std::string_view text) {
  Number number{};
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<std::uint32_t> length_of(std::string_view text) {
  const auto number = number_of<std::uint32_t>(text);
  return number && *number >= 1 && *number <= kMaxLengthTokens ? number : std::nullopt;
}

}  // namespace

Result<LengthDistribution> LengthDistribution::parse(std::string_view text) {
  const Error refusal = invalid_argument(fmt::format(
      "'{}' is no length in tokens: 128, 64-256 or lognormal:MEDIAN:DEVIATION, each length in 1..{}, the deviation in "
      "(0, {}]",
      printable(text), kMaxLengthTokens, kLargestDeviation));
  if (text.starts_with(kLogNormal)) {
    const std::string_view rest = text.substr(kLogNormal.size());
    const std::size_t colon = rest.find(':');
    if (colon == std::string_view::npos) return refusal;
    const auto median = length_of(rest.substr(0, colon));
    const auto deviation = number_of<double>(rest.substr(colon + 1));
    if (!median || !deviation || !(*deviation > 0 && *deviation <= kLargestDeviation)) return refusal;
    LengthDistribution found(*median);
    found.deviation_ = *deviation;
    return found;
  }
  const std::size_t dash = text.find('-');
  const auto low = length_of(text.substr(0, dash));
  const auto high = dash == std::string_view::npos ? low : length_of(text.substr(dash + 1));
  if (!low || !high || *low > *high) return refusal;
  LengthDistribution found(*low);
  found.high_ = *high;
  return found;
}

std::uint32_t LengthDistribution::sample(RandomStream& random) const {
  if (deviation_ > 0) {
    const double length = std::round(low_ * std::exp(deviation_ * random.normal()));
    return static_cast<std::uint32_t>(std::clamp(length, 1.0, double{kMaxLengthTokens}));
  }
  return low_ + random.below(high_ - low_ + 1);
}

std::string LengthDistribution::to_string() const {
  if (deviation_ > 0) return fmt::format("{}{}:{}", kLogNormal, low_, deviation_);
  return low_ == high_ ? fmt::format("{}", low_) : fmt::format("{}-{}", low_, high_);
}

}  // namespace troupe::cluster
