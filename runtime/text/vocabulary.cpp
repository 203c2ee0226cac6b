#include "runtime/text/vocabulary.h"

#include <cmath>

#include "runtime/base/log.h"
#include "runtime/text/bpe.h"
#include "runtime/text/json_node.h"
#include "runtime/text/scored_pieces.h"
#include "runtime/text/tokenizer_parts.h"
#include "runtime/text/utf8.h"
#include "runtime/text/word_patterns.h"

// Tokenizer::build: what llama.cpp makes of a file's metadata, in the terms of tokenizer.json.
namespace troupe::text {
namespace {

constexpr std::string_view kRemedy = "; the model can be served with token-id prompts";
// Spaces as SentencePiece writes them.
constexpr std::string_view kMarkSpaces = R"({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})";
constexpr std::string_view kMarkSpacesAndPrepend =
    R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})";
constexpr std::string_view kUnmarkSpaces =
    R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}]})";
constexpr std::string_view kUnmarkSpacesAndStrip =
    R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";
constexpr std::string_view kByteLevel = R"({"type": "ByteLevel"})";

std::string place_of(const Vocabulary& vocabulary, std::string_view key) {
  return vocabulary.origin + ": key 'tokenizer.ggml." + std::string(key) + "'";
}

Error corrupt(const Vocabulary& vocabulary, std::string_view key, const std::string& what) {
  return corrupt_data(place_of(vocabulary, key) + " " + what);
}

Result<TokenTable> table_of(const Vocabulary& vocabulary) {
  TokenTable table;
  table.reserve(vocabulary.tokens.size());
  for (std::uint32_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id];
    const std::string entry = "[" + std::to_string(id) + "]";
    if (invalid_utf8_offset(token)) return corrupt(vocabulary, "tokens" + entry, "is not UTF-8");
    // Some files have ids without a token; llama.cpp names them so.
    if (table.add(token.empty() ? "[EMPTY_" + std::to_string(id) + "]" : std::string(token), id)) continue;
    return corrupt(vocabulary, "tokens" + entry, "\"" + printable(token) + "\" is the token of another id, too");
  }
  return table;
}

// An id that the vocabulary has: some files name others, which then mean nothing.
std::optional<std::uint32_t> known(const Vocabulary& vocabulary, std::optional<std::uint64_t> id) {
  if (!id || *id >= vocabulary.tokens.size()) return std::nullopt;
  return static_cast<std::uint32_t>(*id);
}

Result<void> check_lists(const Vocabulary& vocabulary) {
  const std::size_t count = vocabulary.tokens.size();
  if (count == 0) return corrupt(vocabulary, "tokens", "has no tokens");
  const auto too_short = [&](std::string_view key, std::size_t size) {
    return corrupt(vocabulary, key,
                   "has " + std::to_string(size) + " elements for " + std::to_string(count) + " tokens");
  };
  if (!vocabulary.types.empty() && vocabulary.types.size() != count) {
    return too_short("token_type", vocabulary.types.size());
  }
  if (!vocabulary.scores.empty() && vocabulary.scores.size() != count) {
    return too_short("scores", vocabulary.scores.size());
  }
  for (std::size_t id = 0; id < vocabulary.scores.size(); ++id) {
    if (std::isnan(vocabulary.scores[id])) {
      return corrupt(vocabulary, "scores[" + std::to_string(id) + "]", "is not a number");
    }
  }
  return {};
}

Result<void> add_special_tokens(const Vocabulary& vocabulary, const TokenModel& model, AddedTokens& added) {
  for (std::uint32_t id = 0; id < vocabulary.types.size(); ++id) {
    const std::int64_t type = vocabulary.types[id];
    const bool special = type == Vocabulary::kControl || type == Vocabulary::kUnknown;
    if ((!special && type != Vocabulary::kUserDefined) || vocabulary.tokens[id].empty()) continue;
    AddedToken token;
    token.id = id;
    token.content = vocabulary.tokens[id];
    token.special = special;
    TROUPE_RETURN_IF_ERROR(added.add(std::move(token), model, place_of(vocabulary, "tokens")));
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::build(const Vocabulary& vocabulary, const Limits& limits) {
  TROUPE_RETURN_IF_ERROR(check_lists(vocabulary));
  const bool is_byte_level = vocabulary.model == "gpt2";
  if (!is_byte_level && vocabulary.model != "llama") {
    return unsupported(place_of(vocabulary, "model") + " is \"" + printable(vocabulary.model, 60) +
                       "\"; supported: gpt2, llama" + std::string(kRemedy));
  }
  const auto description = [&](std::string_view json) { return JsonDocument::parse(json, vocabulary.origin, limits); };
  TROUPE_ASSIGN_OR_RETURN(TokenTable table, table_of(vocabulary));

  std::unique_ptr<Parts> parts;
  bool add_bos = true;
  if (is_byte_level) {
    const WordPatterns* words = word_patterns(vocabulary.pre);
    if (words == nullptr) {
      return unsupported(place_of(vocabulary, "pre") + " is \"" + printable(vocabulary.pre, 60) +
                         "\"; supported: " + word_pattern_names() + std::string(kRemedy));
    }
    add_bos = words->add_bos;
    TROUPE_ASSIGN_OR_RETURN(Bpe bpe, Bpe::from_merges(std::move(table), vocabulary.merges, words->ignore_merges,
                                                      place_of(vocabulary, "merges")));
    parts = std::make_unique<Parts>(std::make_unique<Bpe>(std::move(bpe)));
    TROUPE_ASSIGN_OR_RETURN(parts->pre_tokenizer, byte_level_words(words->patterns));
    TROUPE_ASSIGN_OR_RETURN(const auto decoder, description(kByteLevel));
    TROUPE_ASSIGN_OR_RETURN(parts->decoder, Decoder::parse(JsonNode(decoder)));
  } else {
    std::vector<float> scores = vocabulary.scores;
    scores.resize(vocabulary.tokens.size());
    parts = std::make_unique<Parts>(
        std::make_unique<ScoredPieces>(std::move(table), std::move(scores), known(vocabulary, vocabulary.unknown)));
    const bool prefix = vocabulary.add_space_prefix.value_or(true);
    TROUPE_ASSIGN_OR_RETURN(const auto normalizer, description(prefix ? kMarkSpacesAndPrepend : kMarkSpaces));
    TROUPE_ASSIGN_OR_RETURN(parts->normalizer, parse_normalizer(JsonNode(normalizer)));
    TROUPE_ASSIGN_OR_RETURN(const auto decoder, description(prefix ? kUnmarkSpacesAndStrip : kUnmarkSpaces));
    TROUPE_ASSIGN_OR_RETURN(parts->decoder, Decoder::parse(JsonNode(decoder)));
  }
  TROUPE_RETURN_IF_ERROR(add_special_tokens(vocabulary, *parts->model, parts->added_tokens));
  TROUPE_RETURN_IF_ERROR(parts->added_tokens.finish(parts->normalizer.get()));

  const auto around = [&](bool wanted, std::string_view key, std::optional<std::uint64_t> stated,
                          std::vector<std::uint32_t>& side) -> Result<void> {
    if (!wanted) return {};
    const auto id = known(vocabulary, stated);
    if (!id) return corrupt(vocabulary, key, "names no token, but one is to be added to every text");
    side = {*id};
    return {};
  };
  PostProcessor& post_processor = parts->post_processor;
  TROUPE_RETURN_IF_ERROR(
      around(vocabulary.add_bos.value_or(add_bos), "bos_token_id", vocabulary.bos, post_processor.before));
  TROUPE_RETURN_IF_ERROR(
      around(vocabulary.add_eos.value_or(false), "eos_token_id", vocabulary.eos, post_processor.after));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

}  // namespace troupe::text
