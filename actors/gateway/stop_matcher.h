#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace troupe {

// Finds the first of several stop strings in a text that comes in pieces. How the text is cut into pieces does not
// change the result: the stop string that ends first wins, of those the longest. Not thread-safe.
class StopMatcher {
 public:
  // REQUIRES: no stop string is empty.
  explicit StopMatcher(std::vector<std::string> stops);

  // Takes the next piece and appends to `out` what can no longer be a part of a stop string; text from a stop string
  // on is never given out. True when one was found, after which nothing more may be pushed.
  bool push(std::string_view piece, std::string& out);

  // The text ends: appends what was held back.
  void finish(std::string& out);

 private:
  const std::vector<std::string> stops_;
  std::string held_;  // the longest end of the text that begins a stop string
};

}  // namespace troupe
