#pragma once

#include <cstdint>
#include <map>

namespace troupe::engine {

// Whose a request is: a number that stands for an API key; 0 = nobody in particular.
using Tenant = std::uint64_t;

// How many tokens each tenant has been served, in virtual time: whoever has the least is next (the virtual token
// counter of Sheng et al. 2024, "Fairness in Serving Large Language Models", with prompt and generated tokens of
// equal weight). A tenant that asks for something after having asked for nothing begins no lower than the lowest of
// those who do: it cannot save up. What it has used beyond that is remembered, so that going away gains nothing.
// When nobody asks for anything, nobody owes anything. Used by one thread.
class FairShare {
 public:
  // `most_idle`: tenants to remember while they ask for nothing; of more, those that used least are forgotten.
  explicit FairShare(std::uint64_t most_idle) : most_idle_(most_idle) {}

  // One request more, or one less, of this tenant is there. REQUIRES: leave() after enter().
  void enter(Tenant tenant);
  void leave(Tenant tenant);

  // It has been served so many tokens.
  void charge(Tenant tenant, std::uint64_t tokens);

  // Its virtual time, in tokens. REQUIRES: a request of it is there.
  std::uint64_t served(Tenant tenant) const { return active_.at(tenant).served; }

  std::size_t idle_tenants() const { return idle_.size(); }

 private:
  struct Account {
    std::uint64_t requests = 0;
    std::uint64_t served = 0;
  };

  std::uint64_t least_served() const;
  void forget_idle();

  const std::uint64_t most_idle_;
  std::map<Tenant, Account> active_;
  std::map<Tenant, std::uint64_t> idle_;  // served, of those with more than the active tenant with the least
};

}  // namespace troupe::engine
