#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::cluster {

struct PlotSeries {
  enum class Style { kLine, kSteps, kDots };

  std::string name;
  std::vector<std::pair<double, double>> points;  // ascending in x; those that are not finite are left out
  Style style = Style::kLine;
};

// A plot as a self-contained <svg> element for an HTML page. Its colours are the page's: elements have the classes
// axis, grid, label and series0, series1, ...; y begins at 0, and so does x unless it is
// logarithmic.
struct Plot {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;  // points with x <= 0 stand at the least x above it
  std::vector<PlotSeries> series;
};

std::string render_svg(const Plot& plot);

// Round numbers in [low, high], about `count` of them: steps of 1, 2 or 5 times a power of ten.
std::vector<double> axis_ticks(double low, double high, int count);

// Text for an HTML or SVG element or attribute.
std::string escape_html(std::string_view text);

}  // namespace troupe::cluster
