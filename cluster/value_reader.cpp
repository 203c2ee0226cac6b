#include "cluster/value_reader.h"

#include <algorithm>
#include <charconv>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

constexpr std::size_t kMaxText = 4096;  // bytes of one value

}  // namespace

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= 64 && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
                  c == '-';
         });
}

std::optional<std::uint64_t> whole_number(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

void ValueReader::keys(const DocumentNode& node, const std::string& where, std::initializer_list<std::string> required,
                       const std::vector<Key>& known) {
  std::vector<std::string> names;
  for (const Key& key : known) names.push_back(key.name);
  if (node.kind != DocumentNode::Kind::kMap) {
    diagnostics_.error(node.place, where + " must be a map with the keys " + any_of(names) + ", not " +
                                       std::string(describe(node.kind)));
    return;
  }
  for (const DocumentEntry& entry : node.entries) {
    const auto key = std::find_if(known.begin(), known.end(), [&](const Key& k) { return k.name == entry.key; });
    if (key == known.end()) {
      diagnostics_.error(entry.key_place, "unknown key '" + printable(entry.key) + "' in " + where + "; " +
                                              suggestion(entry.key, names));
    } else {
      key_ = entry.key;
      key->read(entry.value);
    }
  }
  for (const std::string& name : required) {
    const bool given = std::any_of(node.entries.begin(), node.entries.end(),
                                   [&](const DocumentEntry& entry) { return entry.key == name; });
    if (!given) diagnostics_.error(node.place, where + " has no '" + name + "', which it must have");
  }
}

const std::vector<DocumentNode>* ValueReader::list(const DocumentNode& node, const std::string& what, std::size_t max) {
  if (node.kind != DocumentNode::Kind::kSequence) {
    diagnostics_.error(node.place, what + " must be a list, not " + std::string(describe(node.kind)));
    return nullptr;
  }
  if (node.items.size() > max) {
    diagnostics_.error(
        node.place, what + " has " + std::to_string(node.items.size()) + " entries, more than " + std::to_string(max));
    return nullptr;
  }
  return &node.items;
}

bool ValueReader::text(const DocumentNode& node, Placed<std::string>& out) {
  if (node.kind != DocumentNode::Kind::kScalar) {
    diagnostics_.error(node.place, key_ + ": expected a single value, found " + std::string(describe(node.kind)));
    return false;
  }
  if (node.scalar.empty() || node.scalar.size() > kMaxText || node.scalar.find('\0') != std::string::npos) {
    diagnostics_.error(node.place, key_ + ": expected 1 to " + std::to_string(kMaxText) + " bytes of text");
    return false;
  }
  out = {node.scalar, node.place};
  return true;
}

bool ValueReader::name(const DocumentNode& node, const std::string& what, Placed<std::string>& out) {
  Placed<std::string> read;
  if (!text(node, read)) return false;
  if (!is_name(*read)) {
    diagnostics_.error(node.place,
                       what + " is 1 to 64 of the characters A-Z a-z 0-9 . _ -, not '" + printable(*read) + "'");
    return false;
  }
  out = read;
  return true;
}

void ValueReader::number(const DocumentNode& node, std::uint64_t min, std::uint64_t max, Placed<std::uint64_t>& out) {
  Placed<std::string> read;
  if (!text(node, read)) return;
  const auto value = whole_number(*read);
  if (!value || *value < min || *value > max) {
    diagnostics_.error(node.place, key_ + ": expected a whole number from " + std::to_string(min) + " to " +
                                       std::to_string(max) + ", found '" + printable(*read) + "'");
    return;
  }
  out = {*value, node.place};
}

}  // namespace troupe::cluster
