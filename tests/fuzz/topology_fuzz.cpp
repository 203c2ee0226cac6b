// Any bytes as a topology file: no crash, no hang, no growth; and either a topology or an error, never both or neither.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "cluster/topology.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto reading = troupe::cluster::parse_topology({reinterpret_cast<const char*>(data), size}, "fuzz.yaml");
  if (reading.topology.has_value() == troupe::cluster::has_errors(reading.diagnostics)) std::abort();
  return 0;
}
