#include "cluster/bench/svg_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace troupe::cluster {
namespace {

constexpr double kWidth = 640, kHeight = 300;
constexpr double kLeft = 64, kRight = 16, kTop = 34, kBottom = 46;
constexpr double kInnerWidth = kWidth - kLeft - kRight, kInnerHeight = kHeight - kTop - kBottom;

// One axis: from values to pixels.
class Axis {
 public:
  Axis(double low, double high, bool log) : log_(log), low_(scaled(low)), high_(scaled(high)) {
    if (!(high_ > low_)) high_ = low_ + 1;
  }

  double share(double value) const { return (scaled(value) - low_) / (high_ - low_); }

  std::vector<double> ticks() const {
    if (!log_) return axis_ticks(low_, high_, 6);
    // 1, 2 and 5 of every decade when there are few of them, else the decades.
    std::vector<double> ticks;
    const bool fine = high_ - low_ < 2.5;
    for (double decade = std::floor(low_); decade <= high_; ++decade) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double value = digit * std::pow(10, decade);
        const bool inside = scaled(value) >= low_ - 1e-9 && scaled(value) <= high_ + 1e-9;
        if (inside && (fine || digit == 1)) ticks.push_back(value);
      }
    }
    return ticks;
  }

 private:
  double scaled(double value) const { return log_ ? std::log10(value) : value; }

  bool log_;
  double low_;
  double high_;
};

bool drawable(const std::pair<double, double>& point) {
  return std::isfinite(point.first) && std::isfinite(point.second);
}

struct Range {
  double x_low = std::numeric_limits<double>::infinity();
  double x_high = -std::numeric_limits<double>::infinity();
  double y_high = 0;
};

Range range_of(const Plot& plot) {
  Range range;
  for (const PlotSeries& series : plot.series) {
    for (const auto& point : series.points) {
      if (!drawable(point) || (plot.log_x && point.first <= 0)) continue;
      range.x_low = std::min(range.x_low, point.first);
      range.x_high = std::max(range.x_high, point.first);
      range.y_high = std::max(range.y_high, point.second);
    }
  }
  if (!plot.log_x && range.x_low <= range.x_high) range.x_low = std::min(range.x_low, 0.0);
  return range;
}

std::string number_text(double value) { return fmt::format("{:.6g}", value); }

void draw_text(std::string& out, double x, double y, std::string_view anchor, std::string_view text) {
  fmt::format_to(std::back_inserter(out),
                 "<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                 escape_html(text));
}

void draw_axes(std::string& out, const Plot& plot, const Axis& x_axis, const Axis& y_axis) {
  const double bottom = kTop + kInnerHeight;
  const auto line = [&](std::string_view name, double x1, double y1, double x2, double y2) {
    fmt::format_to(std::back_inserter(out),
                   "<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", name, x1, y1, x2,
                   y2);
  };
  for (const double tick : x_axis.ticks()) {
    const double x = kLeft + x_axis.share(tick) * kInnerWidth;
    line("grid", x, kTop, x, bottom);
    draw_text(out, x, bottom + 16, "middle", number_text(tick));
  }
  for (const double tick : y_axis.ticks()) {
    const double y = bottom - y_axis.share(tick) * kInnerHeight;
    line("grid", kLeft, y, kLeft + kInnerWidth, y);
    draw_text(out, kLeft - 6, y + 4, "end", number_text(tick));
  }
  line("axis", kLeft, bottom, kLeft + kInnerWidth, bottom);
  line("axis", kLeft, kTop, kLeft, bottom);
  draw_text(out, kLeft + kInnerWidth / 2, kHeight - 8, "middle", plot.x_label);
  draw_text(out, kLeft, kTop - 8, "start", plot.y_label);
}

void draw_series(std::string& out, const Plot& plot, std::size_t index, const Range& range, const Axis& x_axis,
                 const Axis& y_axis) {
  const PlotSeries& series = plot.series[index];
  const auto place = [&](const std::pair<double, double>& point) {
    const double x = plot.log_x ? std::max(point.first, range.x_low) : point.first;
    return std::pair(kLeft + x_axis.share(x) * kInnerWidth,
                     kTop + kInnerHeight - y_axis.share(point.second) * kInnerHeight);
  };
  std::string path;
  double last_y = 0;
  for (const auto& point : series.points) {
    if (!drawable(point)) continue;
    const auto [x, y] = place(point);
    if (series.style == PlotSeries::Style::kDots) {
      fmt::format_to(std::back_inserter(out), "<circle class=\"dot{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2\"/>\n", index,
                     x, y);
      continue;
    }
    if (path.empty()) {
      path = fmt::format("M{:.1f} {:.1f}", x, y);
    } else if (series.style == PlotSeries::Style::kSteps) {
      fmt::format_to(std::back_inserter(path), "L{:.1f} {:.1f}L{:.1f} {:.1f}", x, last_y, x, y);
    } else {
      fmt::format_to(std::back_inserter(path), "L{:.1f} {:.1f}", x, y);
    }
    last_y = y;
  }
  if (!path.empty()) fmt::format_to(std::back_inserter(out), "<path class=\"series{}\" d=\"{}\"/>\n", index, path);
}

void draw_legend(std::string& out, const Plot& plot) {
  double x = kLeft + kInnerWidth;
  for (std::size_t i = plot.series.size(); i-- > 0;) {
    const std::string& name = plot.series[i].name;
    draw_text(out, x, kTop - 8, "end", name);
    x -= 7.0 * static_cast<double>(name.size()) + 10;
    fmt::format_to(std::back_inserter(out),
                   "<rect class=\"dot{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"10\" height=\"10\"/>\n", i, x - 6,
                   kTop - 17);
    x -= 22;
  }
}

}  // namespace

std::string render_svg(const Plot& plot) {
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight,
                                escape_html(plot.title));
  const Range range = range_of(plot);
  if (range.x_low > range.x_high) {
    draw_text(out, kWidth / 2, kHeight / 2, "middle", "nothing was measured");
    return out + "</svg>\n";
  }
  const Axis x_axis(range.x_low, range.x_high, plot.log_x);
  const Axis y_axis(0, range.y_high * 1.02, false);
  draw_axes(out, plot, x_axis, y_axis);
  for (std::size_t i = 0; i < plot.series.size(); ++i) draw_series(out, plot, i, range, x_axis, y_axis);
  if (plot.series.size() > 1) draw_legend(out, plot);
  return out + "</svg>\n";
}

std::vector<double> axis_ticks(double low, double high, int count) {
  std::vector<double> ticks;
  if (!(high > low) || !std::isfinite(high - low)) return {low};
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double digit : {5.0, 2.0, 1.0}) {
    if (digit * power >= rough) step = digit * power;
  }
  for (double i = std::ceil(low / step); i * step <= high * (1 + 1e-12); ++i) ticks.push_back(i * step);
  return ticks;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace troupe::cluster
