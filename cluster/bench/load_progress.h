#pragma once

#include <string>

#include "cluster/bench/load_run.h"

namespace troupe::cluster {

// Shows on standard error how far a run is: a bar that moves on a terminal, elsewhere a line every few seconds.
class LoadProgressView {
 public:
  explicit LoadProgressView(bool terminal) : terminal_(terminal) {}

  void show(const LoadProgress& progress);
  void clear();  // takes the bar away

 private:
  const bool terminal_;
  double next_line_s_ = 0;
  bool drawn_ = false;
};

// One line, without its end; `bar`: with a picture of the share.
std::string progress_line(const LoadProgress& progress, bool bar);

}  // namespace troupe::cluster
