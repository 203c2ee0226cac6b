#include "runtime/fabric/peer_table.h"

namespace troupe::fabric {

std::shared_ptr<Endpoint> PeerTable::find(const NodeId& node) const {
  std::lock_guard lock(mutex_);
  auto found = peers_.find(node);
  return found == peers_.end() ? nullptr : found->second;
}

std::shared_ptr<Endpoint> PeerTable::find_address(const std::string& address) const {
  for (auto& endpoint : all()) {
    if (endpoint->address() == address) return endpoint;
  }
  return nullptr;
}

std::shared_ptr<Endpoint> PeerTable::find_name(const std::string& name) const {
  for (auto& endpoint : all()) {
    if (endpoint->node().name == name) return endpoint;
  }
  return nullptr;
}

void PeerTable::add(std::shared_ptr<Endpoint> endpoint) {
  std::lock_guard lock(mutex_);
  peers_[endpoint->node()] = std::move(endpoint);
}

void PeerTable::remove(const NodeId& node) {
  std::lock_guard lock(mutex_);
  peers_.erase(node);
}

std::vector<std::shared_ptr<Endpoint>> PeerTable::all() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Endpoint>> endpoints;
  for (const auto& [node, endpoint] : peers_) endpoints.push_back(endpoint);
  return endpoints;
}

std::size_t PeerTable::size() const {
  std::lock_guard lock(mutex_);
  return peers_.size();
}

}  // namespace troupe::fabric
