#include "cluster/launch/line_prefixer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace troupe::cluster {

void LinePrefixer::add(std::string_view output) {
  while (!output.empty()) {
    const std::size_t newline = output.find('\n');
    const std::size_t take = std::min({newline, output.size(), kMaxLine - line_.size()});
    line_.append(output.substr(0, take));
    output.remove_prefix(take);
    const bool ended = output.starts_with('\n');
    if (ended) output.remove_prefix(1);
    if (ended || line_.size() == kMaxLine) write_line();
  }
}

void LinePrefixer::finish() {
  if (!line_.empty()) write_line();
}

void LinePrefixer::write_line() {
  const std::string text = prefix_ + line_ + "\n";
  line_.clear();
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = write(fd_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody reads our output any more
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace troupe::cluster
