#include "runtime/text/tokenizer.h"

#include <algorithm>
#include <charconv>

#include "runtime/text/bpe.h"
#include "runtime/text/json_node.h"
#include "runtime/text/tokenizer_parts.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

// The list `added_tokens` of tokenizer.json.
Result<void> add_listed_tokens(const JsonNode& root, const TokenModel& model, const Limits& limits,
                               AddedTokens& added) {
  TROUPE_ASSIGN_OR_RETURN(const auto list, root.find("added_tokens"));
  if (!list) return {};
  TROUPE_ASSIGN_OR_RETURN(const auto elements, list->elements());
  for (const JsonNode& element : elements) {
    TROUPE_ASSIGN_OR_RETURN(const auto id_node, element.at("id"));
    TROUPE_ASSIGN_OR_RETURN(const auto id, id_node.unsigned_integer(limits.tokenizer_entries - 1));
    TROUPE_RETURN_IF_ERROR(added.add(element, static_cast<std::uint32_t>(id), model));
  }
  return {};
}

// The map `added_tokens_decoder` of tokenizer_config.json: some models name tokens only there.
Result<void> add_configured_tokens(const JsonNode& config, const TokenModel& model, const Limits& limits,
                                   AddedTokens& added) {
  TROUPE_ASSIGN_OR_RETURN(const auto map, config.find("added_tokens_decoder"));
  if (!map) return {};
  TROUPE_ASSIGN_OR_RETURN(const auto members, map->members());
  for (const auto& [key, node] : members) {
    std::uint64_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id >= limits.tokenizer_entries) {
      return node.corrupt("the key must be a token id below " + std::to_string(limits.tokenizer_entries));
    }
    TROUPE_RETURN_IF_ERROR(added.add(node, static_cast<std::uint32_t>(id), model));
  }
  return {};
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<const Tokenizer::Parts>> Tokenizer::parse_parts(const JsonDocument& document,
                                                                       const JsonDocument* config,
                                                                       const Limits& limits) {
  const JsonNode root(document);
  TROUPE_ASSIGN_OR_RETURN(const auto model, root.at("model"));
  TROUPE_ASSIGN_OR_RETURN(Bpe bpe, Bpe::parse(model, limits));
  auto parts = std::make_unique<Parts>(std::make_unique<Bpe>(std::move(bpe)));
  TROUPE_RETURN_IF_ERROR(add_listed_tokens(root, *parts->model, limits, parts->added_tokens));
  if (config) {
    TROUPE_RETURN_IF_ERROR(add_configured_tokens(JsonNode(*config), *parts->model, limits, parts->added_tokens));
  }
  TROUPE_ASSIGN_OR_RETURN(const auto normalizer, root.find("normalizer"));
  if (normalizer) {
    TROUPE_ASSIGN_OR_RETURN(parts->normalizer, parse_normalizer(*normalizer));
  }
  TROUPE_RETURN_IF_ERROR(parts->added_tokens.finish(parts->normalizer.get()));
  TROUPE_ASSIGN_OR_RETURN(const auto pre_tokenizer, root.find("pre_tokenizer"));
  if (pre_tokenizer) {
    TROUPE_ASSIGN_OR_RETURN(parts->pre_tokenizer, parse_pre_tokenizer(*pre_tokenizer));
  }
  TROUPE_ASSIGN_OR_RETURN(const auto post_processor, root.find("post_processor"));
  if (post_processor) {
    TROUPE_ASSIGN_OR_RETURN(parts->post_processor, PostProcessor::parse(*post_processor, limits));
    for (const auto* ids : {&parts->post_processor.before, &parts->post_processor.after}) {
      for (const std::uint32_t id : *ids) {
        if (!parts->spelling(id, false))
          return post_processor->corrupt("adds id " + std::to_string(id) + ", which no token has");
      }
    }
  }
  TROUPE_ASSIGN_OR_RETURN(const auto decoder, root.find("decoder"));
  if (decoder) {
    TROUPE_ASSIGN_OR_RETURN(parts->decoder, Decoder::parse(*decoder));
  }
  return std::unique_ptr<const Parts>(std::move(parts));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const std::filesystem::path& model_directory,
                                                         const Limits& limits) {
  const auto path = model_directory / "tokenizer.json";
  TROUPE_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, limits));
  TROUPE_ASSIGN_OR_RETURN(const auto document, JsonDocument::parse(text, path.string(), limits));
  std::optional<JsonDocument> config;
  const auto config_path = model_directory / "tokenizer_config.json";
  if (auto config_text = read_text_file(config_path, limits)) {
    TROUPE_ASSIGN_OR_RETURN(config, JsonDocument::parse(*config_text, config_path.string(), limits));
  } else if (config_text.error().code != ErrorCode::kNotFound) {
    return std::move(config_text).error();
  }
  TROUPE_ASSIGN_OR_RETURN(auto parts, parse_parts(document, config ? &*config : nullptr, limits));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::parse(std::string_view tokenizer_json, std::string_view origin,
                                                          const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto document, JsonDocument::parse(tokenizer_json, origin, limits));
  TROUPE_ASSIGN_OR_RETURN(auto parts, parse_parts(document, nullptr, limits));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

// Added tokens that are matched as they stand are cut out first; what lies between is normalised, cut again at the
// added tokens that are matched after normalisation, split into pieces, and encoded piece by piece.
Result<std::vector<std::uint32_t>> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (const auto offset = invalid_utf8_offset(text)) {
    return invalid_argument("the text is not UTF-8 at byte " + std::to_string(*offset));
  }
  const Parts& parts = *parts_;
  std::vector<std::uint32_t> tokens;
  if (add_special_tokens) tokens = parts.post_processor.before;
  for (const Stretch& stretch : parts.added_tokens.split_raw(text)) {
    if (stretch.token) {
      tokens.push_back(*stretch.token);
      continue;
    }
    NormalizedText normalized{std::string(text.substr(stretch.span.begin, stretch.span.size())),
                              stretch.span.begin == 0};
    if (parts.normalizer) TROUPE_RETURN_IF_ERROR(parts.normalizer->apply(normalized));
    TROUPE_RETURN_IF_ERROR(parts.encode_normalized(normalized, tokens));
  }
  if (add_special_tokens) {
    tokens.insert(tokens.end(), parts.post_processor.after.begin(), parts.post_processor.after.end());
  }
  return tokens;
}

Result<void> Tokenizer::Parts::encode_normalized(const NormalizedText& normalized,
                                                 std::vector<std::uint32_t>& tokens) const {
  for (const Stretch& stretch : added_tokens.split_normalized(normalized.text)) {
    if (stretch.token) {
      tokens.push_back(*stretch.token);
      continue;
    }
    Pieces pieces;
    pieces.text = normalized.text.substr(stretch.span.begin, stretch.span.size());
    pieces.spans = {{0, pieces.text.size()}};
    pieces.at_start = normalized.at_start && stretch.span.begin == 0;
    if (pre_tokenizer) TROUPE_RETURN_IF_ERROR(pre_tokenizer->apply(pieces));
    for (const Span& piece : pieces.spans) {
      TROUPE_RETURN_IF_ERROR(model->encode(std::string_view(pieces.text).substr(piece.begin, piece.size()), tokens));
    }
  }
  return {};
}

std::string Tokenizer::decode(std::span<const std::uint32_t> tokens, bool skip_special_tokens) const {
  Decoding decoding(parts_->decoder);
  std::string text;
  for (const std::uint32_t token : tokens) {
    if (const std::string* spelling = parts_->spelling(token, skip_special_tokens)) text += decoding.push(*spelling);
  }
  return text + decoding.finish();
}

std::string Tokenizer::token_bytes(std::uint32_t id) const {
  const std::string* spelling = parts_->spelling(id, false);
  return spelling ? parts_->decoder.token_bytes(*spelling) : std::string();
}

std::optional<std::uint32_t> Tokenizer::token_id(std::string_view token) const {
  const auto added = parts_->added_tokens.id_of(token);
  return added ? added : parts_->model->id_of(token);
}

bool Tokenizer::is_special(std::uint32_t id) const {
  const AddedToken* token = parts_->added_tokens.find(id);
  return token && token->special;
}

std::size_t Tokenizer::vocab_size() const { return std::max(parts_->model->size(), parts_->added_tokens.size()); }

}  // namespace troupe::text
