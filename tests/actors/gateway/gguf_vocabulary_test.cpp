// Tokenizers out of the metadata of GGUF files, against the ids that llama.cpp publishes for them.

#include "actors/gateway/gguf_vocabulary.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>
#include <iterator>
#include <sstream>

#include "actors/gateway/served_model.h"
#include "runtime/text/tokenizer.h"
#include "tests/runtime/model/fixtures.h"
#include "tests/runtime/model/gguf_writer.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe {
namespace {

using model::testing::fixtures;
using model::testing::GgufWriter;
using model::testing::has_fixtures;
using model::testing::TemporaryDirectory;
using model::testing::why;
using model::testing::write_file;
using Ids = std::vector<std::uint32_t>;

Result<std::shared_ptr<const text::Tokenizer>> tokenizer_of(const model::GgufFile& file) {
  TROUPE_ASSIGN_OR_RETURN(const text::Vocabulary vocabulary, read_vocabulary(file, Limits()));
  return text::Tokenizer::build(vocabulary, Limits());
}

Result<std::shared_ptr<const text::Tokenizer>> tokenizer_of(const GgufWriter& writer) {
  const std::string content = writer.file();
  const auto file = model::GgufFile::parse(std::as_bytes(std::span(content)), "m.gguf");
  BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
  return tokenizer_of(**file);
}

std::shared_ptr<const text::Tokenizer> good(const GgufWriter& writer) {
  auto tokenizer = tokenizer_of(writer);
  BOOST_REQUIRE_MESSAGE(tokenizer.ok(), why(tokenizer));
  return std::move(tokenizer).value();
}

void check_refused(const GgufWriter& writer, ErrorCode code, std::initializer_list<std::string_view> hints) {
  const auto tokenizer = tokenizer_of(writer);
  BOOST_REQUIRE(!tokenizer.ok());
  BOOST_TEST((tokenizer.error().code == code), tokenizer.error().message);
  BOOST_TEST(tokenizer.error().message.find("m.gguf") == 0u, tokenizer.error().message);
  for (const std::string_view hint : hints) {
    BOOST_TEST(tokenizer.error().message.find(hint) != std::string::npos, tokenizer.error().message);
  }
}

// "ab" scores higher than "bc"; ids 3 to 6 are bytes.
GgufWriter small_llama() {
  GgufWriter writer;
  writer.string("tokenizer.ggml.model", "llama");
  writer.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA4>", "<0x0A>", "<x>", "▁", "a", "b",
                                           "c", "ab", "bc", "▁a", "<user>"});
  writer.f32s("tokenizer.ggml.scores", {0, 0, 0, 0, 0, 0, 0, -9, -9, -9, -9, -1, -2, -3, 0});
  writer.i32s("tokenizer.ggml.token_type", {2, 3, 3, 6, 6, 6, 3, 1, 1, 1, 1, 1, 1, 1, 4});
  return writer;
}

GgufWriter small_gpt2() {
  GgufWriter writer;
  writer.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "qwen2");
  writer.strings("tokenizer.ggml.tokens", {"a", "b", "Ġ", "ab", "Ġab", "1", "11", "<|end|>", "Ã", "¤"});
  writer.i32s("tokenizer.ggml.token_type", {1, 1, 1, 1, 1, 1, 1, 3, 1, 1});
  writer.strings("tokenizer.ggml.merges", {"a b", "Ġ ab", "1 1"});
  return writer;
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

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  BOOST_REQUIRE_MESSAGE(file, "cannot read " << path);
  return {std::istreambuf_iterator<char>(file), {}};
}

BOOST_AUTO_TEST_SUITE(gguf_vocabulary)

BOOST_AUTO_TEST_CASE(pieces_join_by_score_and_spaces_go_before_words) {
  const auto tokenizer = good(small_llama());
  BOOST_TEST((*tokenizer->encode("abc", false) == Ids{7, 11, 10}));        // ▁ ab c, for ab beats ▁a and bc
  BOOST_TEST((*tokenizer->encode("abc", true) == Ids{1, 7, 11, 10}));      // bos by default
  BOOST_TEST((*tokenizer->encode("a c", false) == Ids{13, 7, 10}));        // ▁a ▁ c
  BOOST_TEST((*tokenizer->encode("ä\n", false) == Ids{7, 3, 4, 5}));       // bytes
  BOOST_TEST((*tokenizer->encode("d", false) == Ids{7, 0}));               // no byte token: unknown
  BOOST_TEST((*tokenizer->encode("a<x>a", false) == Ids{13, 6, 13}));      // a space after a special token, too
  BOOST_TEST((*tokenizer->encode("a<user>a", false) == Ids{13, 14, 13}));  // user-defined tokens are whole, too
  BOOST_TEST(tokenizer->decode(Ids{1, 13, 7, 10}, true) == "a c");
  BOOST_TEST(tokenizer->decode(Ids{3, 4}, true) == "ä");
  BOOST_TEST(tokenizer->is_special(6));
  BOOST_TEST(!tokenizer->is_special(14));

  GgufWriter bare = small_llama();
  bare.boolean("tokenizer.ggml.add_space_prefix", false).boolean("tokenizer.ggml.add_bos_token", false);
  bare.boolean("tokenizer.ggml.add_eos_token", true).u32("tokenizer.ggml.eos_token_id", 6);
  BOOST_TEST((*good(bare)->encode("ab c", true) == Ids{11, 7, 10, 6}));
}

BOOST_AUTO_TEST_CASE(characters_without_a_token_join_into_one_that_has) {
  GgufWriter writer = small_llama();
  writer.without("tokenizer.ggml.tokens").without("tokenizer.ggml.scores").without("tokenizer.ggml.token_type");
  writer.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "▁", "xy"});
  BOOST_TEST((*good(writer)->encode("xyx", false) == Ids{2, 3, 0}));
}

BOOST_AUTO_TEST_CASE(merges_of_bytes_follow_the_words_of_the_named_pattern) {
  const auto tokenizer = good(small_gpt2());
  BOOST_TEST((*tokenizer->encode("ab ab", true) == Ids{3, 4}));
  BOOST_TEST((*tokenizer->encode("11", false) == Ids{5, 5}));  // qwen2 isolates digits
  BOOST_TEST((*tokenizer->encode("ab<|end|>ä", false) == Ids{3, 7, 8, 9}));
  BOOST_TEST(tokenizer->decode(Ids{3, 4, 7, 8, 9}, false) == "ab ab<|end|>ä");
  GgufWriter llama3 = small_gpt2();
  llama3.without("tokenizer.ggml.pre").string("tokenizer.ggml.pre", "llama-bpe").u32("tokenizer.ggml.bos_token_id", 7);
  BOOST_TEST((*good(llama3)->encode("11", true) == Ids{7, 6}));  // digits in threes, and bos by default
}

BOOST_AUTO_TEST_CASE(what_is_not_known_is_refused_by_key) {
  constexpr auto kUnsupported = ErrorCode::kUnsupported;
  constexpr auto kCorrupt = ErrorCode::kCorruptData;
  const auto changed = [](GgufWriter writer, auto&& change) {
    change(writer);
    return writer;
  };
  check_refused(GgufWriter(), ErrorCode::kNotFound, {"no tokenizer"});
  check_refused(GgufWriter().string("tokenizer.ggml.model", "gpt2"), kCorrupt,
                {"'tokenizer.ggml.tokens'", "no tokens"});
  check_refused(GgufWriter().string("tokenizer.ggml.model", "bert").strings("tokenizer.ggml.tokens", {"a"}),
                kUnsupported, {"'tokenizer.ggml.model'", "bert", "token-id prompts"});
  check_refused(changed(small_gpt2(),
                        [](GgufWriter& w) { w.without("tokenizer.ggml.pre").string("tokenizer.ggml.pre", "kimi-k2"); }),
                kUnsupported, {"'tokenizer.ggml.pre'", "kimi-k2", "qwen2"});
  check_refused(changed(small_gpt2(),
                        [](GgufWriter& w) {
                          w.without("tokenizer.ggml.merges").strings("tokenizer.ggml.merges", {"a b", "a x"});
                        }),
                kCorrupt, {"'tokenizer.ggml.merges'[1]", "\"x\" is not in the vocabulary"});
  check_refused(
      changed(small_gpt2(),
              [](GgufWriter& w) { w.without("tokenizer.ggml.merges").strings("tokenizer.ggml.merges", {"ab"}); }),
      kCorrupt, {"'tokenizer.ggml.merges'[0]", "two tokens"});
  check_refused(changed(small_gpt2(), [](GgufWriter& w) { w.boolean("tokenizer.ggml.add_bos_token", true); }), kCorrupt,
                {"'tokenizer.ggml.bos_token_id'"});
  check_refused(changed(small_llama(),
                        [](GgufWriter& w) {
                          w.without("tokenizer.ggml.scores").f32s("tokenizer.ggml.scores", {1, 2});
                        }),
                kCorrupt, {"'tokenizer.ggml.scores'", "2 elements for 15 tokens"});
  check_refused(changed(small_llama(),
                        [](GgufWriter& w) {
                          w.without("tokenizer.ggml.scores").f32s("tokenizer.ggml.scores", std::vector<float>(15, NAN));
                        }),
                kCorrupt, {"'tokenizer.ggml.scores[0]'", "not a number"});
  check_refused(
      changed(small_llama(),
              [](GgufWriter& w) { w.without("tokenizer.ggml.token_type").i32s("tokenizer.ggml.token_type", {1}); }),
      kCorrupt, {"'tokenizer.ggml.token_type'"});
  // As many bytes as the right type has elements.
  const std::string bytes = model::testing::bytes_of<std::uint32_t>(0) + model::testing::bytes_of<std::uint64_t>(15);
  for (const std::string key : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
    GgufWriter writer = small_llama();
    writer.without(key).raw(key, model::GgufType::kArray, bytes + std::string(15, '\1'));
    check_refused(writer, kCorrupt, {"'" + key + "' at offset", "array of uint8"});
  }
  const auto tokens = [](const std::vector<std::string>& list) {
    GgufWriter writer;
    writer.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", list);
    return writer;
  };
  check_refused(tokens({"a", "a"}), kCorrupt, {"'tokenizer.ggml.tokens[1]'", "another id"});
  check_refused(tokens({"a", "\xff"}), kCorrupt, {"'tokenizer.ggml.tokens[1]'", "UTF-8"});
  BOOST_TEST(good(tokens({"a", "", ""}))->vocab_size() == 3u);
}

BOOST_AUTO_TEST_CASE(a_served_model_has_the_tokenizer_and_the_template_of_its_file) {
  const TemporaryDirectory directory;
  GgufWriter writer = small_llama();
  writer.string("tokenizer.chat_template",
                "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
                "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
                "{% endif %}");
  write_file(directory / "m.gguf", writer.file());
  ServedModel served;
  const auto loaded = load_text_parts(directory / "m.gguf", Limits(), served);
  BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
  BOOST_REQUIRE(served.tokenizer != nullptr);
  BOOST_TEST((*served.tokenizer->encode("abc", false) == Ids{7, 11, 10}));
  BOOST_REQUIRE_MESSAGE(served.chat_template.ok(), why(served.chat_template));

  write_file(directory / "bare.gguf", GgufWriter().u32("k", 1).file());
  BOOST_REQUIRE(load_text_parts(directory / "bare.gguf", Limits(), served).ok());
  BOOST_TEST(served.tokenizer == nullptr);
  BOOST_TEST(!served.chat_template.ok());
  write_file(directory / "broken.gguf", "GGUF");
  BOOST_TEST(!load_text_parts(directory / "broken.gguf", Limits(), served).ok());
}

BOOST_AUTO_TEST_CASE(published_texts_have_the_ids_of_llama_cpp, *boost::unit_test::precondition(&has_fixtures)) {
  for (const std::string name : {"gpt-2", "llama-spm", "phi-3"}) {
    const std::string file_name = "ggml-vocab-" + name + ".gguf";
    const auto file = model::GgufFile::open(fixtures() / "gguf_vocab" / file_name);
    BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
    const auto tokenizer = tokenizer_of(**file);
    BOOST_REQUIRE_MESSAGE(tokenizer.ok(), why(tokenizer));
    const auto vectors = (fixtures() / "tokenizer_vectors" / file_name).string();
    const auto texts = split(read(vectors + ".inp"), "\n__ggml_vocab_test__\n");
    const auto lines = split(read(vectors + ".out"), "\n");
    BOOST_REQUIRE_EQUAL(texts.size(), lines.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      BOOST_TEST_CONTEXT(name << ": " << texts[i].substr(0, 80)) {
        std::istringstream line(lines[i]);
        const Ids wanted{std::istream_iterator<std::uint32_t>(line), {}};
        const auto ids = (*tokenizer)->encode(texts[i], false);
        BOOST_REQUIRE_MESSAGE(ids.ok(), why(ids));
        BOOST_CHECK_EQUAL_COLLECTIONS(ids->begin(), ids->end(), wanted.begin(), wanted.end());
        BOOST_CHECK_EQUAL((*tokenizer)->decode(wanted, false), texts[i]);
      }
    }
  }
}

// llama.cpp reads the same file with the words of "default", which is not what the model was trained with; here it
// must only load.
BOOST_AUTO_TEST_CASE(a_vocabulary_without_the_name_of_its_words_loads, *boost::unit_test::precondition(&has_fixtures)) {
  const auto file = model::GgufFile::open(fixtures() / "gguf_vocab" / "ggml-vocab-stablelm.v3.gguf");
  BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
  const auto tokenizer = tokenizer_of(**file);
  BOOST_REQUIRE_MESSAGE(tokenizer.ok(), why(tokenizer));
  BOOST_TEST((*tokenizer)->vocab_size() == 50304u);
  const std::string sample = "Hello  World, 1234 ...\n\tüä";
  BOOST_TEST((*tokenizer)->decode(*(*tokenizer)->encode(sample, false), false) == sample);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe
