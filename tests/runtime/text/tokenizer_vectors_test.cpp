// Published texts with their token ids, of tokenizers of which the fixtures have the tokenizer.json.

#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

#include "runtime/text/chat_template.h"
#include "runtime/text/stream_decoder.h"
#include "runtime/text/tokenizer.h"

namespace troupe::text {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using Ids = std::vector<std::uint32_t>;

fs::path fixtures() {
  if (const char* set = std::getenv("TROUPE_FIXTURES")) return set;
  return fs::path(TROUPE_SOURCE_DIR) / ".." / "shared" / "fixtures";
}

boost::test_tools::assertion_result fixtures_present(boost::unit_test::test_unit_id) {
  boost::test_tools::assertion_result present(fs::exists(fixtures() / "tokenizer_vectors"));
  present.message() << "there is no " << (fixtures() / "tokenizer_vectors") << "; set TROUPE_FIXTURES";
  return present;
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  BOOST_REQUIRE_MESSAGE(file, "cannot read " << path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::vector<std::string> split(const std::string& text, std::string_view separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (auto at = text.find(separator); at != std::string::npos; at = text.find(separator, begin)) {
    parts.push_back(text.substr(begin, at - begin));
    begin = at + separator.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

Ids to_ids(const json::value& list) {
  Ids ids;
  for (const auto& id : list.as_array()) ids.push_back(id.to_number<std::uint32_t>());
  return ids;
}

std::shared_ptr<const Tokenizer> tokenizer(const std::string& name) {
  static std::map<std::string, std::shared_ptr<const Tokenizer>> loaded;
  auto& entry = loaded[name];
  if (!entry) {
    auto result = Tokenizer::load(fixtures() / "tokenizers" / name, Limits());
    BOOST_REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().message));
    entry = std::move(result).value();
  }
  return entry;
}

void check_encode(const std::string& name, const std::string& text, const Ids& wanted) {
  BOOST_TEST_CONTEXT(name << ": " << text.substr(0, 80)) {
    const auto ids = tokenizer(name)->encode(text, false);
    BOOST_REQUIRE_MESSAGE(ids.ok(), (ids.ok() ? "" : ids.error().message));
    BOOST_CHECK_EQUAL_COLLECTIONS(ids->begin(), ids->end(), wanted.begin(), wanted.end());
  }
}

// Texts and ids in the two files of a vocabulary of llama.cpp.
void check_ggml(const std::string& vocabulary, const std::string& name) {
  const auto base = fixtures() / "tokenizer_vectors" / ("ggml-vocab-" + vocabulary + ".gguf");
  const auto texts = split(read(base.string() + ".inp"), "\n__ggml_vocab_test__\n");
  const auto lines = split(read(base.string() + ".out"), "\n");
  BOOST_REQUIRE_EQUAL(texts.size(), lines.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::istringstream line(lines[i]);
    const Ids wanted{std::istream_iterator<std::uint32_t>(line), {}};
    check_encode(name, texts[i], wanted);
    BOOST_CHECK_EQUAL(tokenizer(name)->decode(wanted, false), texts[i]);
  }
}

// A model of tokenizer_tests.json whose ids are `before`, those of `name`, `after`.
void check_model(const char* model, const std::string& name, const Ids& before, const Ids& after) {
  const json::value all = json::parse(read(fixtures() / "tokenizer_vectors" / "tokenizer_tests.json"));
  for (const auto& test : all.at(model).as_array()) {
    const Ids ids = to_ids(test.at("encoded").at("input_ids"));
    BOOST_REQUIRE_GE(ids.size(), before.size() + after.size());
    BOOST_REQUIRE(std::equal(before.begin(), before.end(), ids.begin()));
    BOOST_REQUIRE(std::equal(after.rbegin(), after.rend(), ids.rbegin()));
    const std::string text(test.at("input").as_string());
    const Ids inner(ids.begin() + before.size(), ids.end() - after.size());
    check_encode(name, text, inner);
    BOOST_CHECK_EQUAL(tokenizer(name)->decode(inner, false), text);
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(tokenizer_vectors, *boost::unit_test::precondition(fixtures_present))

BOOST_AUTO_TEST_CASE(gpt2_texts) { check_ggml("gpt-2", "gpt2"); }
BOOST_AUTO_TEST_CASE(qwen2_texts_with_the_tokenizer_of_qwen3) { check_ggml("qwen2", "qwen3"); }
BOOST_AUTO_TEST_CASE(phi3_texts) { check_ggml("phi-3", "phi-3-mini"); }
// Phi-3 has the vocabulary of Llama 2.
BOOST_AUTO_TEST_CASE(llama_texts_with_the_tokenizer_of_phi3) { check_ggml("llama-spm", "phi-3-mini"); }
BOOST_AUTO_TEST_CASE(llama2_chat_texts_with_the_tokenizer_of_phi3) {
  check_model("coreml-projects/Llama-2-7b-chat-coreml", "phi-3-mini", {1}, {});
}
BOOST_AUTO_TEST_CASE(distilgpt2_texts_with_the_tokenizer_of_gpt2) { check_model("distilgpt2", "gpt2", {}, {}); }
BOOST_AUTO_TEST_CASE(whisper_english_texts_with_the_tokenizer_of_gpt2) {
  check_model("openai/whisper-tiny.en", "gpt2", {50257, 50362}, {50256});
}

BOOST_AUTO_TEST_CASE(the_models_left_out_have_no_tokenizer_here) {
  // BERT models are WordPiece, T5 is Unigram; Falcon, Gemma, Llama 3.2 and multilingual Whisper have vocabularies of
  // their own of which there is no tokenizer.json.
  const std::vector<std::string> compared = {"coreml-projects/Llama-2-7b-chat-coreml", "distilgpt2",
                                             "openai/whisper-tiny.en"};
  const std::vector<std::string> left_out = {"bert-base-uncased",
                                             "distilbert/distilbert-base-multilingual-cased",
                                             "google-bert/bert-base-uncased",
                                             "openai/whisper-large-v2",
                                             "pcuenq/Llama-3.2-1B-Instruct-tokenizer",
                                             "pcuenq/gemma-tokenizer",
                                             "t5-base",
                                             "tiiuae/falcon-7b"};
  const json::value all = json::parse(read(fixtures() / "tokenizer_vectors" / "tokenizer_tests.json"));
  BOOST_CHECK_EQUAL(all.as_object().size(), compared.size() + left_out.size());
  for (const auto& model : left_out) {
    BOOST_CHECK_MESSAGE(all.as_object().contains(model), model << " is no longer among the vectors");
  }
}

BOOST_AUTO_TEST_CASE(a_french_text_of_gpt2) {
  const json::value test = json::parse(read(fixtures() / "tokenizer_vectors" / "gpt2_encoded_tokens.json"));
  check_encode("gpt2", std::string(test.at("text").as_string()), to_ids(test.at("token_ids")));
}

BOOST_AUTO_TEST_CASE(mistral_conversations) {
  std::size_t compared = 0;
  for (const auto& folder : fs::directory_iterator(fixtures() / "tokenizer_vectors" / "mistral_common")) {
    for (const std::string version : {"v1", "v2", "v3"}) {
      const auto text_path = folder.path() / ("text_" + version + ".txt");
      if (!fs::exists(text_path)) continue;
      // The files show spaces and newlines as SentencePiece spells them.
      const std::string text = replace_all(replace_all(read(text_path), "▁", " "), "<0x0A>", "\n");
      const auto tokens = json::parse(read(folder.path() / ("tokens_" + version + ".json")));
      check_encode(version == "v1" ? "mistral-v0.1" : "mistral-v0.3", text, to_ids(tokens.at("tokens")));
      ++compared;
    }
  }
  BOOST_CHECK_EQUAL(compared, 13u);
}

BOOST_AUTO_TEST_CASE(every_tokenizer_streams_what_it_decodes) {
  for (const auto& folder : fs::directory_iterator(fixtures() / "tokenizers")) {
    const auto loaded = tokenizer(folder.path().filename().string());
    const auto ids = loaded->encode("Hello 😀🏽 wörld, 日本語!  don't\n\n\tstop", true);
    BOOST_REQUIRE(ids.ok());
    StreamDecoder decoder(loaded, true);
    std::string streamed;
    for (const auto id : *ids) streamed += decoder.push(id);
    streamed += decoder.finish();
    BOOST_CHECK_EQUAL(streamed, loaded->decode(*ids, true));
  }
}

// The prompts that transformers make with these templates.
BOOST_AUTO_TEST_CASE(published_chat_templates_make_the_published_prompts) {
  const std::vector<ChatMessage> messages = {
      {"system", "Be brief."}, {"user", "2+2?"}, {"assistant", "<think>\nhm\n</think>\n\n4"}, {"user", "3+3?"}};
  const auto prompt = [&](const char* name, ChatOptions options) {
    const auto chat = ChatTemplate::load(fixtures() / "tokenizers" / name, Limits());
    BOOST_REQUIRE_MESSAGE(chat.ok(), (chat.ok() ? "" : chat.error().message));
    const auto text = chat->render(messages, options);
    BOOST_REQUIRE_MESSAGE(text.ok(), (text.ok() ? "" : text.error().message));
    return *text;
  };
  BOOST_CHECK_EQUAL(prompt("phi-3-mini", {}),
                    "<|system|>\nBe brief.<|end|>\n<|user|>\n2+2?<|end|>\n<|assistant|>\n<think>\nhm\n</think>\n\n4"
                    "<|end|>\n<|user|>\n3+3?<|end|>\n<|assistant|>\n");
  // Says <|endoftext|>, a special token of its own, where no answer is asked for.
  BOOST_CHECK(prompt("phi-3-mini", {.add_generation_prompt = false}).ends_with("3+3?<|end|>\n<|endoftext|>"));
  // Leaves out what was thought before the last question.
  const std::string qwen3 =
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
      "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n";
  BOOST_CHECK_EQUAL(prompt("qwen3", {}), qwen3);
  const jinja::Dict silent = {{"enable_thinking", jinja::Value(false)}};
  BOOST_CHECK_EQUAL(prompt("qwen3", {.arguments = silent}), qwen3 + "<think>\n\n</think>\n\n");
  BOOST_CHECK_EQUAL(prompt("minimind", {}),
                    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
                    "<think>\nhm\n</think>\n\n4<|im_end|>\n<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"
                    "<think>\n\n</think>\n\n");
  const auto none = ChatTemplate::load(fixtures() / "tokenizers" / "gpt2", Limits());
  BOOST_REQUIRE(!none.ok());
  BOOST_CHECK(none.error().code == ErrorCode::kNotFound);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
