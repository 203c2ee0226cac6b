#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/text/json_node.h"

namespace troupe::text {

// A text on its way through the normalisers.
struct NormalizedText {
  std::string text;
  // Whether its first character comes from the first of the whole input, which is where Metaspace's "first" counts.
  bool at_start = false;
};

// One step of the `normalizer` of tokenizer.json. Immutable, thread-safe.
class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // REQUIRES: the text is UTF-8.
  virtual Result<void> apply(NormalizedText& text) const = 0;
};

// Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents, ByteLevel; kUnsupported for others.
Result<std::unique_ptr<const Normalizer>> parse_normalizer(const JsonNode& node);

}  // namespace troupe::text
