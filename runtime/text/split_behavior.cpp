#include "runtime/text/split_behavior.h"

#include <algorithm>

namespace troupe::text {
namespace {

struct Part {
  Span span;
  bool delimiter;
};

// The whole text in order, delimiters and what lies between.
std::vector<Part> parts_of(std::size_t bytes, const std::vector<Span>& delimiters, bool invert) {
  std::vector<Part> parts;
  parts.reserve(delimiters.size() * 2 + 1);
  std::size_t at = 0;
  for (const Span& delimiter : delimiters) {
    if (at < delimiter.begin) parts.push_back({{at, delimiter.begin}, invert});
    parts.push_back({delimiter, !invert});
    at = delimiter.end;
  }
  if (at < bytes) parts.push_back({{at, bytes}, invert});
  return parts;
}

// Joins a delimiter that follows no other delimiter to the part before it.
std::vector<Span> merge_with_previous(const std::vector<Part>& parts) {
  std::vector<Span> spans;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.delimiter && !previous && !spans.empty()) {
      spans.back().end = part.span.end;
    } else {
      spans.push_back(part.span);
    }
    previous = part.delimiter;
  }
  return spans;
}

std::vector<Span> merge_with_next(const std::vector<Part>& parts) {
  std::vector<Span> spans;
  bool next = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->delimiter && !next && !spans.empty()) {
      spans.back().begin = part->span.begin;
    } else {
      spans.push_back(part->span);
    }
    next = part->delimiter;
  }
  std::reverse(spans.begin(), spans.end());
  return spans;
}

std::vector<Span> join_equals(const std::vector<Part>& parts) {
  std::vector<Span> spans;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.delimiter == previous && !spans.empty()) {
      spans.back().end = part.span.end;
    } else {
      spans.push_back(part.span);
    }
    previous = part.delimiter;
  }
  return spans;
}

}  // namespace

Result<SplitBehavior> parse_split_behavior(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto name, node.string());
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return node.not_supported(
      "the behaviour must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

std::vector<Span> split_at(std::size_t bytes, const std::vector<Span>& delimiters, SplitBehavior behavior,
                           bool invert) {
  const std::vector<Part> parts = parts_of(bytes, delimiters, invert);
  std::vector<Span> spans;
  switch (behavior) {
    case SplitBehavior::kRemoved:
      for (const Part& part : parts) {
        if (!part.delimiter) spans.push_back(part.span);
      }
      break;
    case SplitBehavior::kIsolated:
      for (const Part& part : parts) spans.push_back(part.span);
      break;
    case SplitBehavior::kMergedWithPrevious: spans = merge_with_previous(parts); break;
    case SplitBehavior::kMergedWithNext: spans = merge_with_next(parts); break;
    case SplitBehavior::kContiguous: spans = join_equals(parts); break;
  }
  std::erase_if(spans, [](const Span& span) { return span.size() == 0; });
  return spans;
}

}  // namespace troupe::text
