// Tokenizer files that contradict themselves or ask for what is not there: each error names the key.

#include <boost/test/unit_test.hpp>

#include "runtime/text/tokenizer.h"
#include "tests/runtime/text/small_tokenizers.h"

namespace troupe::text {
namespace {

void check_refused(const std::string& json, ErrorCode code, std::string_view key, const Limits& limits = Limits()) {
  BOOST_TEST_CONTEXT(json.substr(0, 200)) {
    const auto tokenizer = Tokenizer::parse(json, "dir/tokenizer.json", limits);
    BOOST_REQUIRE(!tokenizer.ok());
    const std::string& message = tokenizer.error().message;
    BOOST_CHECK_MESSAGE(tokenizer.error().code == code, message);
    BOOST_CHECK_MESSAGE(message.find("dir/tokenizer.json") != std::string::npos, message);
    BOOST_CHECK_MESSAGE(message.find(key) != std::string::npos, message << " does not name " << key);
  }
}

std::string with_model(const std::string& model) { return R"({"model":{"type":"BPE",)" + model + "}}"; }
std::string with(const std::string& members) {
  return R"({"model":{"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},)" + members + "}";
}

}  // namespace

BOOST_AUTO_TEST_SUITE(hostile_tokenizer)

BOOST_AUTO_TEST_CASE(files_that_are_not_json_name_the_byte) {
  check_refused("", ErrorCode::kCorruptData, "byte 0");
  check_refused("{\"model\": nope}", ErrorCode::kCorruptData, "byte");
  check_refused("[]", ErrorCode::kCorruptData, "object");
  check_refused("{}", ErrorCode::kCorruptData, "model");
  check_refused("{} {}", ErrorCode::kCorruptData, "byte");
  check_refused("{\"model\":\"\xFF\"}", ErrorCode::kCorruptData, "byte");
}

BOOST_AUTO_TEST_CASE(deep_and_large_files_are_bounded) {
  check_refused(std::string(100'000, '['), ErrorCode::kCorruptData, "byte");
  std::string nested;
  for (int i = 0; i < 40; ++i) nested += R"({"type":"Sequence","normalizers":[)";
  check_refused(with("\"normalizer\":" + nested), ErrorCode::kCorruptData, "byte");
  Limits small;
  small.json_file_bytes = 10;
  check_refused(with(R"("decoder":null)"), ErrorCode::kResourceExhausted, "json_file_bytes", small);
  small = Limits();
  small.tokenizer_entries = 2;
  check_refused(with(R"("decoder":null)"), ErrorCode::kCorruptData, "model.vocab", small);
}

BOOST_AUTO_TEST_CASE(vocabularies_with_impossible_ids_are_refused) {
  check_refused(with_model(R"("vocab":{"a":0,"b":0},"merges":[])"), ErrorCode::kCorruptData, "model.vocab[\"b\"]");
  check_refused(with_model(R"("vocab":{"a":-1},"merges":[])"), ErrorCode::kCorruptData, "model.vocab[\"a\"]");
  check_refused(with_model(R"("vocab":{"a":4294967296},"merges":[])"), ErrorCode::kCorruptData, "model.vocab[\"a\"]");
  check_refused(with_model(R"("vocab":{"a":1.5},"merges":[])"), ErrorCode::kCorruptData, "model.vocab[\"a\"]");
  check_refused(with_model(R"("vocab":["a"],"merges":[])"), ErrorCode::kCorruptData, "model.vocab");
}

BOOST_AUTO_TEST_CASE(merges_of_unknown_tokens_are_refused) {
  const std::string vocab = R"("vocab":{"a":0,"b":1,"ab":2},"merges":)";
  check_refused(with_model(vocab + R"(["a b","a c"])"), ErrorCode::kCorruptData, "model.merges[1]");
  check_refused(with_model(vocab + R"([["b","a"]])"), ErrorCode::kCorruptData, "model.merges[0]");
  check_refused(with_model(vocab + R"(["ab"])"), ErrorCode::kCorruptData, "model.merges[0]");
  check_refused(with_model(vocab + R"([["a","b","a"]])"), ErrorCode::kCorruptData, "model.merges[0]");
  check_refused(with_model(vocab + R"([7])"), ErrorCode::kCorruptData, "model.merges[0]");
}

BOOST_AUTO_TEST_CASE(components_that_are_not_there_are_named) {
  check_refused(R"({"model":{"type":"WordPiece","vocab":{}}})", ErrorCode::kUnsupported, "model.type");
  check_refused(R"({"model":{"type":"Unigram","vocab":[]}})", ErrorCode::kUnsupported, "Unigram");
  check_refused(with_model(R"("dropout":0.1,"vocab":{},"merges":[])"), ErrorCode::kUnsupported, "model.dropout");
  check_refused(with(R"("normalizer":{"type":"Precompiled"})"), ErrorCode::kUnsupported, "normalizer.type");
  check_refused(with(R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Nmt"}]})"), ErrorCode::kUnsupported,
                "normalizer.normalizers[0].type");
  check_refused(with(R"("pre_tokenizer":{"type":"UnicodeScripts"})"), ErrorCode::kUnsupported, "pre_tokenizer.type");
  check_refused(with(R"("post_processor":{"type":"Other"})"), ErrorCode::kUnsupported, "post_processor.type");
  check_refused(with(R"("decoder":{"type":"CTC"})"), ErrorCode::kUnsupported, "decoder.type");
}

BOOST_AUTO_TEST_CASE(patterns_that_do_not_compile_are_named) {
  const auto split = [](const std::string& pattern) {
    return with(R"("pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":")" + pattern + R"("}})");
  };
  for (const char* pattern : {"(", "[a", "a{2", "\\\\", "[a&&b]", "[[a]b]", "\\\\p{Nonsense}", "\\\\p{", "(?<=a+)b"}) {
    const auto tokenizer = Tokenizer::parse(split(pattern), "tokenizer.json", Limits());
    if (std::string_view(pattern) == "a{2") {  // braces that are no interval are letters
      BOOST_CHECK(tokenizer.ok());
    } else {
      check_refused(split(pattern), ErrorCode::kUnsupported, "pre_tokenizer.pattern.Regex");
    }
  }
}

BOOST_AUTO_TEST_CASE(a_pattern_that_never_ends_is_given_up) {
  const auto tokenizer = load_or_fail(
      with(R"("pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(?:a|aa|a)+[bd]"}})"));
  const auto ids = tokenizer->encode(std::string(200, 'a') + "c", false);
  BOOST_REQUIRE(!ids.ok());
  BOOST_CHECK(ids.error().code == ErrorCode::kResourceExhausted);
}

BOOST_AUTO_TEST_CASE(added_tokens_that_contradict_the_vocabulary_are_refused) {
  check_refused(with(R"("added_tokens":[{"id":1,"content":"x"}])"), ErrorCode::kCorruptData, "added_tokens[0]");
  check_refused(with(R"("added_tokens":[{"id":5,"content":"a"}])"), ErrorCode::kCorruptData, "added_tokens[0]");
  check_refused(with(R"("added_tokens":[{"id":5,"content":"x"},{"id":5,"content":"y"}])"), ErrorCode::kCorruptData,
                "added_tokens[1]");
  check_refused(with(R"("added_tokens":[{"id":99999999,"content":"x"}])"), ErrorCode::kCorruptData,
                "added_tokens[0].id");
  check_refused(with(R"("added_tokens":[{"id":5}])"), ErrorCode::kCorruptData, "added_tokens[0]");
  check_refused(with(R"("added_tokens":[{"id":5,"content":")" + std::string(5000, 'x') + R"("}])"),
                ErrorCode::kCorruptData, "added_tokens[0].content");
}

BOOST_AUTO_TEST_CASE(templates_with_ids_that_no_token_has_are_refused) {
  check_refused(with(R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"s"}},)"
                     R"({"Sequence":{"id":"A"}}],"special_tokens":{"s":{"ids":[77]}}})"),
                ErrorCode::kCorruptData, "post_processor");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
