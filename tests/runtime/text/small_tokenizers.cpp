#include "tests/runtime/text/small_tokenizers.h"

#include <stdexcept>
#include <vector>

#include "runtime/text/byte_level.h"

namespace troupe::text {
namespace {

std::string in_json(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  out += '"';
  return out;
}

std::string vocabulary(const std::vector<std::string>& tokens) {
  std::string out = "{";
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (id > 0) out += ",";
    out += in_json(tokens[id]) + ":" + std::to_string(id);
  }
  return out + "}";
}

std::string special(const std::string& content, std::size_t id) {
  return R"({"id":)" + std::to_string(id) + R"(,"content":)" + in_json(content) +
         R"(,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})";
}

std::string byte_token(int byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
}

}  // namespace

std::string byte_level_json(std::string_view normalizer, std::string_view added_tokens) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(to_byte_level(std::string(1, static_cast<char>(byte))));
  for (const char* text : {" t", "he", " the", "ll", "hell", "hello"}) tokens.push_back(to_byte_level(text));
  const std::string space = to_byte_level(" ");
  return R"({"added_tokens":[)" + special("<|im_start|>", 262) + "," + special("<|im_end|>", 263) +
         std::string(added_tokens) + R"(],"normalizer":)" + std::string(normalizer) +
         R"(,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
         R"("post_processor":null,"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":)" +
         vocabulary(tokens) + R"(,"merges":[")" + space + R"( t","h e",")" + space +
         R"(t he","l l","he ll","hell o"]}})";
}

std::string sentencepiece_json(bool byte_fallback, bool fuse_unk) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(byte_token(byte));
  for (const char* text : {"▁", "h", "e", "l", "o", "t", "he", "ll", "hell", "hello", "▁hello", "th", "the", "▁the"}) {
    tokens.push_back(text);
  }
  return R"({"added_tokens":[)" + special("<unk>", 0) + "," + special("<s>", 1) + "," + special("</s>", 2) +
         R"(],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},)"
         R"({"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,)"
         R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
         R"({"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},)"
         R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},)"
         R"({"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},)"
         R"("model":{"type":"BPE","unk_token":"<unk>","fuse_unk":)" +
         std::string(fuse_unk ? "true" : "false") + R"(,"byte_fallback":)" + (byte_fallback ? "true" : "false") +
         R"(,"vocab":)" + vocabulary(tokens) +
         R"(,"merges":[["h","e"],["l","l"],["he","ll"],["hell","o"],["▁","hello"],["t","he"],["▁","the"]]}})";
}

std::shared_ptr<const Tokenizer> load_or_fail(std::string_view json) {
  auto tokenizer = Tokenizer::parse(json, "tokenizer.json", Limits());
  if (!tokenizer) throw std::runtime_error(tokenizer.error().message);
  return std::move(tokenizer).value();
}

}  // namespace troupe::text
