#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace troupe::text {

// The tokens of a vocabulary by their spelling and by their id.
class TokenTable {
 public:
  void reserve(std::size_t count) { ids_.reserve(count); }
  // False, and nothing changes, when the spelling or the id is taken.
  bool add(std::string_view token, std::uint32_t id);

  std::optional<std::uint32_t> id_of(std::string_view token) const;
  // nullptr when no token has that id.
  const std::string* token_of(std::uint32_t id) const { return id < tokens_.size() ? tokens_[id] : nullptr; }
  // Largest id + 1.
  std::size_t size() const { return tokens_.size(); }

  // All spellings with their ids, in no order.
  auto begin() const { return ids_.begin(); }
  auto end() const { return ids_.end(); }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  std::unordered_map<std::string, std::uint32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> tokens_;  // by id; into ids_, whose nodes do not move
};

// The tokens that stand for single bytes, spelt <0x00> ... <0xFF>.
using ByteTokens = std::array<std::optional<std::uint32_t>, 256>;
ByteTokens find_byte_tokens(const TokenTable& table);

}  // namespace troupe::text
