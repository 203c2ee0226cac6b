#include "runtime/text/token_table.h"

namespace troupe::text {
namespace {

std::string byte_token(unsigned byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
}

}  // namespace

bool TokenTable::add(std::string_view token, std::uint32_t id) {
  if (token_of(id) != nullptr) return false;
  const auto [entry, is_new] = ids_.emplace(token, id);
  if (!is_new) return false;
  if (id >= tokens_.size()) tokens_.resize(std::size_t{id} + 1, nullptr);
  tokens_[id] = &entry->first;
  return true;
}

std::optional<std::uint32_t> TokenTable::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

ByteTokens find_byte_tokens(const TokenTable& table) {
  ByteTokens tokens;
  for (unsigned byte = 0; byte < tokens.size(); ++byte) tokens[byte] = table.id_of(byte_token(byte));
  return tokens;
}

}  // namespace troupe::text
