#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cluster/diagnostic.h"
#include "cluster/machine.h"
#include "cluster/placement.h"
#include "runtime/base/device.h"
#include "runtime/model/config.h"

namespace troupe::cluster {

// Why this machine cannot compute on the device, with what it can do instead; nothing if it can.
std::optional<std::string> why_unusable(const Machine& machine, const Device& device);

// Errors: devices of shards and experts that this machine does not have or cannot use. Warnings: those that several of
// them share.
void check_devices(const model::ModelConfig& model, const Machine& machine, const std::vector<PlacedStage>& stages,
                   Diagnostics& diagnostics);

}  // namespace troupe::cluster
