#pragma once

#include <caf/actor_control_block.hpp>
#include <caf/actor_system.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

namespace troupe::fabric {

// The actors of this node that peers may address, by number. There is no distributed garbage collection: an actor
// that was once mentioned to a peer is held until it dies.
// Thread-safety: all functions, from any thread.
class Exports : public std::enable_shared_from_this<Exports> {
 public:
  explicit Exports(caf::actor_system& system) : system_(system) {}

  // Well-known actors have numbers that follow from their names, apart from CAF's actor ids.
  static std::uint64_t number_of(const std::string& name);

  void publish(const std::string& name, caf::strong_actor_ptr actor);
  caf::strong_actor_ptr find(std::uint64_t number) const;  // null if unknown
  // The number under which peers address `actor`, which is added if it is new. The handle of an actor on a third
  // node gets a number here, too: what is sent to it is relayed.
  std::uint64_t number_of(const caf::strong_actor_ptr& actor);
  void clear();

 private:
  void remove(std::uint64_t number, const caf::actor_control_block* actor);
  void remove_at_death(std::uint64_t number, const caf::strong_actor_ptr& actor);

  caf::actor_system& system_;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, caf::strong_actor_ptr> actors_;
  std::unordered_map<const caf::actor_control_block*, std::uint64_t> numbers_;  // keys are held by actors_
};

}  // namespace troupe::fabric
