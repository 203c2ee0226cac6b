#pragma once

#include <string>

#include "cluster/bench/bench_report.h"

namespace troupe::cluster {

// A report for people, as lines of text.
std::string report_table(const BenchReport& report);

}  // namespace troupe::cluster
