#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/diagnostic.h"
#include "cluster/document.h"

namespace troupe::cluster {

// 1 to 64 of the characters that names of nodes, clusters and namespaces are made of.
bool is_name(std::string_view text);

// Nothing for anything but the digits of a number below 2^64.
std::optional<std::uint64_t> whole_number(std::string_view text);

// Reads the kinds of values that a topology file is made of. Mistakes go to the diagnostics, with the key at which they
// stand; what was to be read is left as it is then.
class ValueReader {
 public:
  explicit ValueReader(Diagnostics& diagnostics) : diagnostics_(diagnostics) {}

 protected:
  struct Key {
    std::string name;
    std::function<void(const DocumentNode&)> read;
  };

  // A map: every key by its function, an error for those unknown and those required but missing.
  void keys(const DocumentNode& node, const std::string& where, std::initializer_list<std::string> required,
            const std::vector<Key>& known);

  // Null for what is no list, or has more than `max` entries.
  const std::vector<DocumentNode>* list(const DocumentNode& node, const std::string& what, std::size_t max);

  bool text(const DocumentNode& node, Placed<std::string>& out);
  bool name(const DocumentNode& node, const std::string& what, Placed<std::string>& out);
  void number(const DocumentNode& node, std::uint64_t min, std::uint64_t max, Placed<std::uint64_t>& out);

  // Of a narrower type, which holds `max`.
  template <class T>
  void number(const DocumentNode& node, std::uint64_t min, std::uint64_t max, Placed<T>& out) {
    Placed<std::uint64_t> wide{out.value, out.place};
    number(node, min, max, wide);
    out = {static_cast<T>(*wide), wide.place};
  }

  Diagnostics& diagnostics_;
  std::string key_;  // whose value is being read, for messages
};

}  // namespace troupe::cluster
