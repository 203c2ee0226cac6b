#include "cluster/bench/load_progress.h"

#include <fmt/format.h>

#include <cstdio>

namespace troupe::cluster {
namespace {

constexpr std::size_t kBarColumns = 30;
constexpr double kLineEvery_s = 5;

}  // namespace

void LoadProgressView::show(const LoadProgress& progress) {
  if (terminal_) {
    fmt::print(stderr, "\r\033[2K{}", progress_line(progress, true));
    drawn_ = true;
  } else if (progress.elapsed_s >= next_line_s_) {
    if (next_line_s_ > 0) fmt::print(stderr, "troupe bench: {}\n", progress_line(progress, false));
    next_line_s_ += kLineEvery_s;
  }
  std::fflush(stderr);
}

void LoadProgressView::clear() {
  if (drawn_) fmt::print(stderr, "\r\033[2K");
  drawn_ = false;
}

std::string progress_line(const LoadProgress& progress, bool bar) {
  std::string line;
  if (bar) {
    const auto filled = static_cast<std::size_t>(progress.share * kBarColumns);
    line = fmt::format("[{}{}] ", std::string(filled, '#'), std::string(kBarColumns - filled, '.'));
  }
  const double tokens_per_s =
      progress.elapsed_s > 0 ? static_cast<double>(progress.output_tokens) / progress.elapsed_s : 0;
  line += fmt::format("{:.0f} s, {} answered, {} under way, {:.1f} tokens/s", progress.elapsed_s, progress.answered,
                      progress.in_flight, tokens_per_s);
  if (progress.failed > 0) line += fmt::format(", {} failed", progress.failed);
  return line;
}

}  // namespace troupe::cluster
