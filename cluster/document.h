#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/diagnostic.h"

namespace troupe::cluster {

struct DocumentEntry;

// A YAML document as a tree in which everything knows its place. A plain value.
struct DocumentNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };

  Kind kind = Kind::kNull;
  Place place;
  std::string scalar;                  // of a kScalar
  std::vector<DocumentNode> items;     // of a kSequence
  std::vector<DocumentEntry> entries;  // of a kMap, in the order of the file, each key once
};

struct DocumentEntry {
  std::string key;
  Place key_place;
  DocumentNode value;
};

// "a map", "a list", "a single value", "nothing"
std::string_view describe(DocumentNode::Kind kind);

// Bounds on what a file may make us build. Aliases are refused, so nodes grow only with the file's length.
inline constexpr std::size_t kMaxDocumentDepth = 16;
inline constexpr std::size_t kMaxDocumentNodes = 1 << 16;

// Parses text that holds one YAML document. Reports what YAML itself forbids, keys given twice (the first one counts),
// keys that are not plain words, aliases, a second document, and more depth or nodes than the bounds above.
// Returns nothing when there is no tree to go on with.
std::optional<DocumentNode> parse_document(std::string_view text, Diagnostics& diagnostics);

}  // namespace troupe::cluster
