#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe::model {

// Receives the events of a JSON text in order. A reader of a strict format overrides those that its format has;
// every other one is refused. Handlers return false after refuse().
class JsonHandler {
 public:
  virtual ~JsonHandler() = default;

  virtual bool begin_object() { return refuse("an object is not expected here"); }
  virtual bool end_object() { return refuse("the object must not end here"); }
  virtual bool begin_array() { return refuse("a list is not expected here"); }
  virtual bool end_array() { return refuse("the list must not end here"); }
  virtual bool key(std::string_view) { return refuse("a key is not expected here"); }
  virtual bool string(std::string_view) { return refuse("a string is not expected here"); }
  virtual bool integer(std::uint64_t) { return refuse("a number is not expected here"); }

  // Negative numbers, fractions, numbers beyond 64 bits, true, false and null.
  virtual bool other() { return refuse("only strings, lists and non-negative 64-bit integers are expected here"); }

  const std::string& reason() const { return reason_; }

 protected:
  bool refuse(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }

 private:
  std::string reason_;
};

// Walks the whole text without building a document: memory stays within the longest string. Errors (kCorruptData)
// name `place` and the byte offset in the file, where the text begins at `text_offset`.
Result<void> walk_json(std::string_view text, std::uint64_t text_offset, const std::string& place,
                       JsonHandler& handler);

}  // namespace troupe::model
