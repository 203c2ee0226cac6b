#include "runtime/model/gguf_blocks.h"

#include <cstdint>
#include <cstring>

namespace troupe::model {
namespace {

constexpr std::size_t kElements = 32;

struct Q5_0 {
  std::uint8_t scale[2];       // F16
  std::uint8_t fifth_bits[4];  // of element i: bit i
  std::uint8_t four_bits[16];  // elements i and i + 16
};
struct Q8_0 {
  std::uint8_t scale[2];  // F16
  std::int8_t values[kElements];
};
static_assert(sizeof(Q5_0) == 22 && sizeof(Q8_0) == 34);

}  // namespace

void widen_q5_0(const std::byte* blocks, std::size_t count, std::byte* out) {
  for (std::size_t block = 0; block < count; ++block) {
    Q5_0 from;
    Q8_0 to;
    std::memcpy(&from, blocks + block * sizeof from, sizeof from);
    std::memcpy(to.scale, from.scale, sizeof to.scale);
    for (std::size_t i = 0; i < kElements; ++i) {
      const int low = i < 16 ? from.four_bits[i] & 15 : from.four_bits[i - 16] >> 4;
      const int high = from.fifth_bits[i / 8] >> i % 8 & 1;
      to.values[i] = static_cast<std::int8_t>((low | high << 4) - 16);
    }
    std::memcpy(out + block * sizeof to, &to, sizeof to);
  }
}

}  // namespace troupe::model
