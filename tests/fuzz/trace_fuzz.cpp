// Any bytes as a trace: no crash, no hang, no growth; and a trace that was read is sent as its lengths say.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <sstream>

#include "cluster/bench/block_reuse.h"
#include "cluster/bench/trace.h"
#include "cluster/bench/workload.h"

using namespace troupe::cluster;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  auto parsed = parse_trace(in, "fuzz", {});
  if (!parsed.ok()) return 0;
  const auto trace = std::make_shared<const Trace>(*std::move(parsed));
  if (trace->requests.empty()) std::abort();
  const Workload workload({.max_model_len = 64, .block_tokens = 16}, trace);
  BlockReuse reuse;
  double last_s = 0;
  for (std::size_t i = 0; i < trace->requests.size(); ++i) {
    const TraceRequest& request = trace->requests[i];
    if (!(request.arrival_s >= last_s)) std::abort();
    last_s = request.arrival_s;
    const PlannedRequest planned = workload.request(i);
    if (planned.prompt.empty() || planned.max_tokens == 0 || planned.prompt.size() + planned.max_tokens > 64)
      std::abort();
    if (!trace->has_blocks()) continue;
    if (reuse.add(workload.blocks(i), planned.prompt.size(), 16) >= planned.prompt.size()) std::abort();
  }
  return 0;
}
