#pragma once

#include <string>

#include "cluster/bench/bench_report.h"

namespace troupe::cluster {

// A report as one HTML page with its plots: nothing is fetched, nothing is run, everything from outside is escaped.
// Colours follow the reader's choice of light or dark.
std::string html_report(const BenchReport& report);

// Two runs on one page: figures side by side with their ratios, plots over each other.
std::string html_comparison(const BenchReport& first, const BenchReport& second);

}  // namespace troupe::cluster
