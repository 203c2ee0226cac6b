#include "cluster/live_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace troupe::cluster {
namespace {

constexpr std::size_t kBarColumns = 30;

double gigabytes_per_second(std::uint64_t bytes, std::uint64_t elapsed_ns) {
  return elapsed_ns == 0 ? 0 : static_cast<double>(bytes) / static_cast<double>(elapsed_ns);
}

}  // namespace

void LiveView::show_state(const std::string& actor, const std::string& node, const std::string& state,
                          const std::string& detail) {
  std::lock_guard lock(mutex_);
  clear_bars();
  if (state != "loading") loading_.erase(actor);
  fmt::print("{:<14} {:<10} {:<8} {}\n", actor, node, state, detail);
  draw_bars();
  std::fflush(stdout);
}

void LiveView::show_progress(const std::string& actor, std::uint64_t bytes, std::uint64_t total_bytes,
                             std::uint64_t elapsed_ns) {
  std::lock_guard lock(mutex_);
  if (terminal_) {
    clear_bars();
    loading_[actor] = {bytes, total_bytes, elapsed_ns};
    draw_bars();
  } else {
    fmt::print("{:<14} {:.1f} of {:.1f} MB, {:.2f} GB/s\n", actor, static_cast<double>(bytes) * 1e-6,
               static_cast<double>(total_bytes) * 1e-6, gigabytes_per_second(bytes, elapsed_ns));
  }
  std::fflush(stdout);
}

void LiveView::show_line(const std::string& line) {
  std::lock_guard lock(mutex_);
  clear_bars();
  fmt::print("{}\n", line);
  draw_bars();
  std::fflush(stdout);
}

void LiveView::clear_bars() {
  for (; bars_drawn_ > 0; --bars_drawn_) fmt::print("\033[1A\033[2K");
}

void LiveView::draw_bars() {
  for (const auto& [actor, loading] : loading_) {
    const double share =
        loading.total_bytes == 0
            ? 1.0
            : std::min(1.0, static_cast<double>(loading.bytes) / static_cast<double>(loading.total_bytes));
    const auto filled = static_cast<std::size_t>(share * kBarColumns);
    fmt::print("{:<14} [{}{}] {:5.1f} % of {:.1f} MB, {:.2f} GB/s\n", actor, std::string(filled, '#'),
               std::string(kBarColumns - filled, '.'), 100 * share, static_cast<double>(loading.total_bytes) * 1e-6,
               gigabytes_per_second(loading.bytes, loading.elapsed_ns));
    ++bars_drawn_;
  }
}

}  // namespace troupe::cluster
