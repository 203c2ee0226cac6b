#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cluster/bench/bench_report.h"

namespace troupe::cluster {

// One figure of two runs beside each other.
struct ComparedFigure {
  enum class Better { kHigher, kLower, kNeither };

  std::string name;
  std::string unit;
  double first = 0;
  double second = 0;
  Better better = Better::kNeither;

  // second / first; nothing when that says nothing.
  std::optional<double> ratio() const;
  // Whether the second run did better (or worse) by more than 2 %; nothing if neither.
  std::optional<bool> improved() const;
};

// The figures that both runs have. TTFT and the like are left out where a run has none.
std::vector<ComparedFigure> compare(const BenchReport& first, const BenchReport& second);

// For people, as lines of text: both runs, the ratios, and which way they went.
std::string comparison_table(const BenchReport& first, const BenchReport& second);

// How a run is called beside another one: its label, or else its target.
std::string run_name(const BenchReport& report);

}  // namespace troupe::cluster
