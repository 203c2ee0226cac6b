#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/fabric/endpoint.h"

namespace troupe::fabric {

// The live peers, for lookups from any thread.
class PeerTable {
 public:
  std::shared_ptr<Endpoint> find(const NodeId& node) const;
  std::shared_ptr<Endpoint> find_address(const std::string& address) const;
  std::shared_ptr<Endpoint> find_name(const std::string& name) const;
  void add(std::shared_ptr<Endpoint> endpoint);
  void remove(const NodeId& node);
  std::vector<std::shared_ptr<Endpoint>> all() const;
  std::size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::unordered_map<NodeId, std::shared_ptr<Endpoint>> peers_;
};

}  // namespace troupe::fabric
