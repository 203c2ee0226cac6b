#pragma once

#include <string>

#include "runtime/base/result.h"
#include "runtime/text/json_node.h"

namespace troupe::text {

// How SentencePiece's visible space is used; the pre-tokeniser and the decoder `Metaspace` have the same keys.
struct Metaspace {
  enum class Prepend { kAlways, kFirst, kNever };

  std::string replacement = "\u2581";  // one character
  Prepend prepend = Prepend::kAlways;
  bool split = true;

  static Result<Metaspace> parse(const JsonNode& node);
};

}  // namespace troupe::text
