#include "cluster/http/sse_parser.h"

namespace troupe::cluster {

Result<bool> SseParser::add(std::string_view bytes, const std::function<bool(std::string_view data)>& on_event) {
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    line_ += bytes.substr(0, newline);
    if (line_.size() + data_.size() > kMaxEventBytes) return corrupt_data("an event of the stream has no end");
    if (newline == std::string_view::npos) return true;
    bytes.remove_prefix(newline + 1);

    std::string line;
    line.swap(line_);
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) {
      std::string data;
      data.swap(data_);
      const bool complete = has_data_;
      has_data_ = false;
      if (complete && !on_event(data)) return false;
    } else if (line.starts_with("data:")) {
      if (has_data_) data_ += '\n';
      has_data_ = true;
      std::string_view value = std::string_view(line).substr(5);
      if (value.starts_with(' ')) value.remove_prefix(1);
      data_ += value;
    }
  }
  return true;
}

}  // namespace troupe::cluster
