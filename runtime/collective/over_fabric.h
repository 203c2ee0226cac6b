#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/collective/communicator.h"
#include "runtime/collective/link.h"

namespace troupe::collective {

// A group whose ranks live on different nodes: every rank has a link to every other (link.h).
//
// Small tensors and groups of two exchange whole tensors, one latency an operation; larger ones reduce-scatter and
// all-gather, so that a rank sends (world_size - 1) / world_size of the tensor twice whatever the group's size.
// Either way sums are taken in rank order.
//
// `links`: one a rank, the own one null. A peer that sends nothing for `timeout` is an error.
std::unique_ptr<Communicator> make_group_over_fabric(std::uint32_t rank, std::vector<std::unique_ptr<Link>> links,
                                                     std::chrono::milliseconds timeout);

}  // namespace troupe::collective
