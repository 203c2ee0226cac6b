#pragma once

#include <memory>

#include "runtime/collective/communicator.h"

namespace troupe::collective {

// A group of one rank: nothing to exchange, only copies where input and output differ.
std::unique_ptr<Communicator> make_solo_communicator();

}  // namespace troupe::collective
