#include "actors/gateway/served_model.h"

#include "runtime/base/log.h"
#include "runtime/text/utf8.h"

namespace troupe {

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

Result<void> load_text_parts(const std::filesystem::path& directory, const Limits& limits, ServedModel& model) {
  auto tokenizer = text::Tokenizer::load(directory, limits);
  if (!tokenizer.ok()) {
    if (tokenizer.error().code != ErrorCode::kNotFound) return std::move(tokenizer).error();
    model.tokenizer = nullptr;
    model.chat_template = unsupported("the model has no tokenizer; use /v1/completions with token ids", "messages");
    return {};
  }
  model.tokenizer = std::move(tokenizer).value();
  model.chat_template = text::ChatTemplate::load(directory, limits);
  if (!model.chat_template.ok()) {
    spdlog::warn("chat requests will be refused: {}", model.chat_template.error().message);
  }
  return {};
}

}  // namespace troupe
