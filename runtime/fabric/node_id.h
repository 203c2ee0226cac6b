#pragma once

#include <caf/make_counted.hpp>
#include <caf/node_id.hpp>

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace troupe::fabric {

// One life of one process of the cluster.
struct NodeId {
  std::string name;               // as in the topology file
  std::uint64_t incarnation = 0;  // random, drawn at start, never 0

  auto operator<=>(const NodeId&) const = default;
};

// 1 to 64 bytes of [A-Za-z0-9._-].
bool valid_node_name(std::string_view name);

// "name#incarnation" in hexadecimal, for messages.
std::string to_string(const NodeId& node);

// The same node for CAF's address comparisons: two handles of one remote actor are equal.
caf::node_id caf_node_id(const NodeId& node);

}  // namespace troupe::fabric

template <>
struct std::hash<troupe::fabric::NodeId> {
  std::size_t operator()(const troupe::fabric::NodeId& node) const noexcept {
    return std::hash<std::string>{}(node.name) ^ node.incarnation;
  }
};
