#include "runtime/fabric/exports.h"

#include <caf/actor_proxy.hpp>

#include "runtime/base/fnv1a.h"
#include "runtime/fabric/node_id.h"

namespace troupe::fabric {
namespace {
constexpr std::uint64_t kWellKnownBit = std::uint64_t{1} << 63;
}

std::uint64_t Exports::number_of(const std::string& name) { return fnv1a(name) | kWellKnownBit; }

void Exports::publish(const std::string& name, caf::strong_actor_ptr actor) {
  auto number = number_of(name);
  caf::strong_actor_ptr replaced;  // released after the lock: its destruction may run foreign code
  {
    std::lock_guard lock(mutex_);
    auto& slot = actors_[number];
    replaced = std::exchange(slot, actor);
    if (auto known = numbers_.find(replaced.get()); known != numbers_.end() && known->second == number) {
      numbers_.erase(known);
    }
    numbers_[actor.get()] = number;  // from now on its messages carry this number
  }
  remove_at_death(number, actor);
}

caf::strong_actor_ptr Exports::find(std::uint64_t number) const {
  std::lock_guard lock(mutex_);
  auto found = actors_.find(number);
  return found == actors_.end() ? nullptr : found->second;
}

std::uint64_t Exports::number_of(const caf::strong_actor_ptr& actor) {
  std::uint64_t number;
  {
    std::lock_guard lock(mutex_);
    if (auto known = numbers_.find(actor.get()); known != numbers_.end()) return known->second;
    bool is_remote = dynamic_cast<caf::actor_proxy*>(actor->get()) != nullptr;
    number = is_remote ? system_.next_actor_id() : actor->id();
    actors_[number] = actor;
    numbers_[actor.get()] = number;
  }
  remove_at_death(number, actor);
  return number;
}

void Exports::clear() {
  std::unordered_map<std::uint64_t, caf::strong_actor_ptr> actors;
  std::lock_guard lock(mutex_);
  numbers_.clear();
  actors.swap(actors_);
}

void Exports::remove(std::uint64_t number, const caf::actor_control_block* actor) {
  caf::strong_actor_ptr removed;
  std::lock_guard lock(mutex_);
  if (auto found = actors_.find(number); found != actors_.end() && found->second.get() == actor) {
    removed = std::move(found->second);
    actors_.erase(found);
  }
  if (auto known = numbers_.find(actor); known != numbers_.end() && known->second == number) numbers_.erase(known);
}

// REQUIRES: the lock is not held, because a dead actor calls back at once.
void Exports::remove_at_death(std::uint64_t number, const caf::strong_actor_ptr& actor) {
  actor->get()->attach_functor([weak = weak_from_this(), number, address = actor.get()](const caf::error&) {
    if (auto self = weak.lock()) self->remove(number, address);
  });
}

}  // namespace troupe::fabric
