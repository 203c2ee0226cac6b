#include "runtime/fabric/node_id.h"
#include "runtime/base/fnv1a.h"

#include <algorithm>
#include <cstring>

namespace troupe::fabric {

bool valid_node_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

std::string to_string(const NodeId& node) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = node.name + '#';
  for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[(node.incarnation >> shift) & 15];
  return text;
}

caf::node_id caf_node_id(const NodeId& node) {
  using Data = caf::node_id::default_data;
  Data::host_id_type host{};
  auto first = fnv1a(node.name);
  auto second = fnv1a(node.name, node.incarnation);
  std::memcpy(host.data(), &node.incarnation, 8);
  std::memcpy(host.data() + 8, &first, 8);
  std::memcpy(host.data() + 16, &second, 4);
  return caf::node_id(caf::make_counted<Data>(static_cast<std::uint32_t>(second >> 32), host));
}

}  // namespace troupe::fabric
