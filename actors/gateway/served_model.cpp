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

Result<std::shared_ptr<const text::Tokenizer>> gguf_tokenizer(const model::GgufFile& file, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const text::Vocabulary vocabulary, read_vocabulary(file, limits));
  return text::Tokenizer::build(vocabulary, limits);
}

Result<text::ChatTemplate> gguf_chat_template(const model::GgufFile& file) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  TROUPE_ASSIGN_OR_RETURN(const std::string_view jinja, file.metadata().string(kKey, ""));
  const std::string place = file.place() + ": key '" + std::string(kKey) + "'";
  if (jinja.empty()) return not_found(place + " is missing; the model can still be used through /v1/completions");
  return text::ChatTemplate::parse(jinja, place);
}

Result<TextParts> read_text_parts(const std::filesystem::path& model, const Limits& limits) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(model, ignored)) {
    return TextParts{text::Tokenizer::load(model, limits), text::ChatTemplate::load(model, limits)};
  }
  TROUPE_ASSIGN_OR_RETURN(const auto file, model::GgufFile::open(model, limits));
  return TextParts{gguf_tokenizer(*file, limits), gguf_chat_template(*file)};
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
