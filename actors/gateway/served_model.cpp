#include "actors/gateway/served_model.h"

#include <system_error>

#include "actors/gateway/gguf_vocabulary.h"
#include "runtime/base/log.h"
#include "runtime/model/gguf.h"
#include "runtime/text/utf8.h"

namespace troupe {
namespace {

// A tokenizer and a template, or why there is none.
struct TextParts {
  Result<std::shared_ptr<const text::Tokenizer>> tokenizer;
  Result<text::ChatTemplate> chat_template;
};

// The special tokens by the names that templates have for them.
text::jinja::Dict special_tokens(const text::Vocabulary& vocabulary) {
  text::jinja::Dict tokens;
  const auto name = [&](std::string_view name, std::optional<std::uint64_t> id) {
    if (!id || *id >= vocabulary.tokens.size() || text::invalid_utf8_offset(vocabulary.tokens[*id])) return;
    text::jinja::assign(tokens, name, text::jinja::Value(vocabulary.tokens[*id]));
  };
  name("bos_token", vocabulary.bos);
  name("eos_token", vocabulary.eos);
  name("unk_token", vocabulary.unknown);
  return tokens;
}

Result<text::ChatTemplate> gguf_chat_template(const model::GgufFile& file, const text::Vocabulary& vocabulary) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  TROUPE_ASSIGN_OR_RETURN(const std::string_view jinja, file.metadata().string(kKey, ""));
  const std::string place = file.place() + ": key '" + std::string(kKey) + "'";
  if (jinja.empty()) return not_found(place + " is missing; the model can still be used through /v1/completions");
  return text::ChatTemplate::parse(jinja, place, special_tokens(vocabulary));
}

Result<TextParts> read_text_parts(const std::filesystem::path& model, const Limits& limits) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(model, ignored)) {
    return TextParts{text::Tokenizer::load(model, limits), text::ChatTemplate::load(model, limits)};
  }
  TROUPE_ASSIGN_OR_RETURN(const auto file, model::GgufFile::open(model, limits));
  auto vocabulary = read_vocabulary(*file, limits);
  if (!vocabulary.ok()) return TextParts{vocabulary.error(), vocabulary.error()};
  return TextParts{text::Tokenizer::build(*vocabulary, limits), gguf_chat_template(*file, *vocabulary)};
}

}  // namespace

std::string ServedModel::token_bytes(std::uint32_t token) const {
  return tokenizer ? tokenizer->token_bytes(token) : std::string();
}

std::string ServedModel::token_name(std::uint32_t token) const {
  if (!tokenizer) return "token_id:" + std::to_string(token);
  std::string bytes = tokenizer->token_bytes(token);
  if (!text::invalid_utf8_offset(bytes)) return bytes;
  std::string name = "bytes:";
  for (const char c : bytes) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return name;
}

Result<void> load_text_parts(const std::filesystem::path& path, const Limits& limits, ServedModel& model) {
  TROUPE_ASSIGN_OR_RETURN(TextParts parts, read_text_parts(path, limits));
  if (!parts.tokenizer.ok()) {
    if (parts.tokenizer.error().code != ErrorCode::kNotFound) return std::move(parts.tokenizer).error();
    model.tokenizer = nullptr;
    model.chat_template = unsupported("the model has no tokenizer; use /v1/completions with token ids", "messages");
    return {};
  }
  model.tokenizer = std::move(parts.tokenizer).value();
  model.chat_template = std::move(parts.chat_template);
  if (!model.chat_template.ok()) {
    spdlog::warn("chat requests will be refused: {}", model.chat_template.error().message);
  }
  return {};
}

}  // namespace troupe
