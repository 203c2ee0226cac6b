#include "runtime/text/added_tokens.h"

#include <algorithm>

#include "runtime/base/log.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

// Bounds the time that a match attempt at one place of a text can take.
constexpr std::size_t kMaxTokenBytes = 1024;

// Where the character that ends at `end` begins.
std::size_t character_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while ((text[begin] & 0xC0) == 0x80) --begin;
  return begin;
}

bool stands_alone(std::string_view text, const Span& span) {
  if (span.begin > 0 && is_word(character_at(text, character_before(text, span.begin)).code_point)) return false;
  return span.end == text.size() || !is_word(character_at(text, span.end).code_point);
}

std::size_t skip_space_before(std::string_view text, std::size_t begin, std::size_t limit) {
  while (begin > limit) {
    const std::size_t previous = character_before(text, begin);
    if (!is_whitespace(character_at(text, previous).code_point)) break;
    begin = previous;
  }
  return begin;
}

std::size_t skip_space_behind(std::string_view text, std::size_t end) {
  while (end < text.size()) {
    const Character character = character_at(text, end);
    if (!is_whitespace(character.code_point)) break;
    end += character.bytes;
  }
  return end;
}

}  // namespace

Result<void> AddedTokens::add(const JsonNode& node, std::uint32_t id, const TokenModel& model) {
  AddedToken token;
  token.id = id;
  TROUPE_ASSIGN_OR_RETURN(const auto content, node.at("content"));
  TROUPE_ASSIGN_OR_RETURN(token.content, content.string());
  TROUPE_ASSIGN_OR_RETURN(token.special, node.boolean_or("special", false));
  TROUPE_ASSIGN_OR_RETURN(token.single_word, node.boolean_or("single_word", false));
  TROUPE_ASSIGN_OR_RETURN(token.lstrip, node.boolean_or("lstrip", false));
  TROUPE_ASSIGN_OR_RETURN(token.rstrip, node.boolean_or("rstrip", false));
  TROUPE_ASSIGN_OR_RETURN(token.normalized, node.boolean_or("normalized", !token.special));
  return add(std::move(token), model, content.place());
}

Result<void> AddedTokens::add(AddedToken token, const TokenModel& model, const std::string& place) {
  const std::string& text = token.content;
  if (text.empty() || by_content_.contains(text)) return {};
  if (text.size() > kMaxTokenBytes) {
    return corrupt_data(place + ": an added token has at most " + std::to_string(kMaxTokenBytes) + " bytes");
  }
  const auto contradicts = [&](const std::string& other) {
    return corrupt_data(place + ": id " + std::to_string(token.id) + " of \"" + printable(text) +
                        "\" is already that of \"" + printable(other) + "\"");
  };
  if (const auto known = model.id_of(text); known && *known != token.id) {
    return corrupt_data(place + ": \"" + printable(text) + "\" has id " + std::to_string(token.id) + " here and " +
                        std::to_string(*known) + " in the vocabulary");
  }
  if (const std::string* known = model.token_of(token.id); known && *known != text) return contradicts(*known);
  if (const auto other = by_id_.find(token.id); other != by_id_.end()) {
    return contradicts(tokens_[other->second].content);
  }
  by_content_.emplace(text, tokens_.size());
  by_id_.emplace(token.id, tokens_.size());
  size_ = std::max<std::size_t>(size_, std::size_t{token.id} + 1);
  tokens_.push_back(std::move(token));
  return {};
}

Result<void> AddedTokens::finish(const Normalizer* normalizer) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    NormalizedText wanted{token.content, true};
    if (token.normalized && normalizer) TROUPE_RETURN_IF_ERROR(normalizer->apply(wanted));
    if (!wanted.text.empty()) (token.normalized ? normalized_ : raw_).insert(wanted.text, i);
  }
  return {};
}

std::vector<Stretch> AddedTokens::split(std::string_view text, const Trie& trie) const {
  std::vector<Stretch> stretches;
  std::size_t done = 0;  // stretches reach to here
  for (std::size_t at = 0; at < text.size();) {
    const auto match = trie.longest_prefix(text.substr(at));
    if (!match) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match->value];
    Span span{at, at + match->bytes};
    at = span.end;
    if (token.single_word && !stands_alone(text, span)) continue;
    // White space that the token before has taken stays with it; a token that is nothing else is gone with it.
    if (token.rstrip) span.end = skip_space_behind(text, std::max(span.end, done));
    if (token.lstrip) span.begin = std::max(done, skip_space_before(text, span.begin, done));
    if (span.begin >= span.end) continue;
    if (done < span.begin) stretches.push_back({{done, span.begin}, std::nullopt});
    stretches.push_back({span, token.id});
    done = span.end;
  }
  if (done < text.size()) stretches.push_back({{done, text.size()}, std::nullopt});
  return stretches;
}

std::optional<std::uint32_t> AddedTokens::id_of(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  if (found == by_content_.end()) return std::nullopt;
  return tokens_[found->second].id;
}

const AddedToken* AddedTokens::find(std::uint32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace troupe::text
