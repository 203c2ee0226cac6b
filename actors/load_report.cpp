#include "actors/load_report.h"

#include <fmt/format.h>

#include <caf/send.hpp>
#include <utility>

#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"

namespace troupe {
namespace {

constexpr std::chrono::milliseconds kInterval{100};

}  // namespace

LoadReport::LoadReport(std::string actor, caf::actor asker) : actor_(std::move(actor)), asker_(std::move(asker)) {}

std::uint64_t LoadReport::elapsed_ns() const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count();
}

void LoadReport::progress(std::uint64_t bytes, std::uint64_t total_bytes) {
  const auto now = Clock::now();
  if (!asker_ || (bytes != total_bytes && now - last_ < kInterval)) return;
  last_ = now;
  caf::anon_send(asker_, fabric::make_message<schema::LoadProgress>([&](schema::LoadProgress::Builder out) {
                   out.setActor(actor_);
                   out.setBytes(bytes);
                   out.setTotalBytes(total_bytes);
                   out.setElapsedNs(elapsed_ns());
                 }));
}

std::string LoadReport::summary(std::uint64_t bytes, std::string_view kernels) const {
  const double seconds = static_cast<double>(elapsed_ns()) * 1e-9;
  return fmt::format("{:.1f} MB in {:.2f} s ({:.2f} GB/s), kernels {}", static_cast<double>(bytes) * 1e-6, seconds,
                     static_cast<double>(bytes) * 1e-9 / seconds, kernels);
}

}  // namespace troupe
