#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"

// The first byte chooses the parser. A header that is accepted must describe ranges inside the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    const auto config = troupe::model::parse_config(text, "fuzzed");
    if (config.ok() && config->sliding_windows.size() != config->num_layers) std::abort();
    return 0;
  }
  constexpr std::uint64_t kDataBytes = 64;
  const std::uint64_t data_begin = 8 + text.size();
  const auto tensors = troupe::model::parse_safetensors_header(text, data_begin, data_begin + kDataBytes, "fuzzed");
  if (!tensors.ok()) return 0;
  for (const auto& tensor : *tensors) {
    if (tensor.begin < data_begin || tensor.begin > tensor.end || tensor.end > data_begin + kDataBytes) std::abort();
  }
  return 0;
}
