#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe::cluster {

// Takes a server-sent event stream apart as its bytes come (WHATWG HTML, section 9.2.6): only `data` counts here.
class SseParser {
 public:
  static constexpr std::size_t kMaxEventBytes = 16 << 20;

  // Calls `on_event` with the data of each event that these bytes complete. Returns false once it did.
  // Errors: an event of more than kMaxEventBytes.
  Result<bool> add(std::string_view bytes, const std::function<bool(std::string_view data)>& on_event);

 private:
  std::string line_;  // begun, not ended
  std::string data_;  // of the event so far
  bool has_data_ = false;
};

}  // namespace troupe::cluster
