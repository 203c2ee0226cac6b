#pragma once

#include <vector>

#include "actors/root_supervisor.h"
#include "cluster/plan.h"
#include "cluster/topology.h"

namespace troupe::cluster {

// The plan as the orders by which the root supervisor has it carried out, one an actor.
std::vector<ActorOrder> make_orders(const Plan& plan, const Topology& topology);

}  // namespace troupe::cluster
