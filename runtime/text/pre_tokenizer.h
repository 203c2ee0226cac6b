#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/json_node.h"
#include "runtime/text/regex.h"

namespace troupe::text {

// A text cut into pieces. The pieces lie in `text` in order, none empty, none overlapping; bytes outside of every
// piece are dropped.
struct Pieces {
  std::string text;
  std::vector<Span> spans;
  // Whether the first byte of `text` is the first of the whole input.
  bool at_start = false;
};

// One step of the `pre_tokenizer` of tokenizer.json. Immutable, thread-safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  // REQUIRES: every piece is UTF-8.
  virtual Result<void> apply(Pieces& pieces) const = 0;
};

// Sequence, ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, Punctuation, Metaspace;
// kUnsupported for others.
Result<std::unique_ptr<const PreTokenizer>> parse_pre_tokenizer(const JsonNode& node);

// Isolates what each pattern matches, one pattern after the other, and writes the pieces in the byte-level alphabet.
Result<std::unique_ptr<const PreTokenizer>> byte_level_words(std::span<const std::string_view> patterns);

}  // namespace troupe::text
