#include "runtime/text/tokenizer.h"

#include <boost/test/unit_test.hpp>

#include "tests/runtime/text/small_tokenizers.h"

namespace troupe::text {

using Ids = std::vector<std::uint32_t>;

namespace {

Ids encode(const Tokenizer& tokenizer, std::string_view text, bool add_special_tokens = false) {
  const auto ids = tokenizer.encode(text, add_special_tokens);
  BOOST_REQUIRE_MESSAGE(ids.ok(), (ids.ok() ? "" : ids.error().message));
  return *ids;
}

void check_ids(const Ids& got, const Ids& wanted) {
  BOOST_CHECK_EQUAL_COLLECTIONS(got.begin(), got.end(), wanted.begin(), wanted.end());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(tokenizer)

BOOST_AUTO_TEST_CASE(byte_level_merges_apply_by_rank_inside_words) {
  const auto tokenizer = load_or_fail(byte_level_json());
  check_ids(encode(*tokenizer, "hello the"), {261, 258});
  check_ids(encode(*tokenizer, "the"), {116, 257});
  check_ids(encode(*tokenizer, ""), {});
}

BOOST_AUTO_TEST_CASE(special_tokens_in_the_text_are_recognised) {
  const auto tokenizer = load_or_fail(byte_level_json());
  check_ids(encode(*tokenizer, "<|im_start|>hello<|im_end|>"), {262, 261, 263});
  BOOST_CHECK(tokenizer->is_special(262));
  BOOST_CHECK(!tokenizer->is_special(261));
  BOOST_CHECK_EQUAL(tokenizer->decode(Ids{262, 261, 263}, true), "hello");
  BOOST_CHECK_EQUAL(tokenizer->decode(Ids{262, 261, 263}, false), "<|im_start|>hello<|im_end|>");
}

BOOST_AUTO_TEST_CASE(vocabulary_can_be_asked_both_ways) {
  const auto tokenizer = load_or_fail(byte_level_json());
  BOOST_CHECK_EQUAL(tokenizer->vocab_size(), 264u);
  BOOST_CHECK_EQUAL(tokenizer->token_id("hello").value(), 261u);
  BOOST_CHECK_EQUAL(tokenizer->token_id("<|im_end|>").value(), 263u);
  BOOST_CHECK(!tokenizer->token_id("missing"));
  BOOST_CHECK_EQUAL(tokenizer->token_bytes(258), " the");
  BOOST_CHECK_EQUAL(tokenizer->token_bytes(0xF0), "\xF0");
  BOOST_CHECK_EQUAL(tokenizer->token_bytes(1000), "");
}

BOOST_AUTO_TEST_CASE(every_byte_survives_a_round_trip) {
  const auto tokenizer = load_or_fail(byte_level_json());
  const std::string text = "The 😀 naïve \xE2\x80\x8D 中文\r\n\t\x01 hello";
  BOOST_CHECK_EQUAL(tokenizer->decode(encode(*tokenizer, text), false), text);
}

BOOST_AUTO_TEST_CASE(sentencepiece_texts_begin_with_a_space_that_decoding_removes) {
  const auto tokenizer = load_or_fail(sentencepiece_json());
  const auto hello = tokenizer->token_id("▁hello").value();
  const auto the = tokenizer->token_id("▁the").value();
  check_ids(encode(*tokenizer, "hello the", true), {1, hello, the});
  BOOST_CHECK_EQUAL(tokenizer->decode(Ids{1, hello, the}, true), "hello the");
  BOOST_CHECK_EQUAL(tokenizer->token_bytes(the), " the");
}

BOOST_AUTO_TEST_CASE(characters_without_a_token_fall_back_to_bytes) {
  const auto tokenizer = load_or_fail(sentencepiece_json());
  const auto space = tokenizer->token_id("▁").value();
  check_ids(encode(*tokenizer, "é"), {space, 3 + 0xC3, 3 + 0xA9});
  BOOST_CHECK_EQUAL(tokenizer->token_bytes(3 + 0xC3), "\xC3");
  // A run of bytes that is not UTF-8 is one replacement character per byte.
  BOOST_CHECK_EQUAL(tokenizer->decode(Ids{3 + 0xC3, 3 + 0xC3}, true), "\uFFFD\uFFFD");
}

BOOST_AUTO_TEST_CASE(unknown_characters_are_fused_only_when_asked) {
  const auto fused = load_or_fail(sentencepiece_json(false, true));
  const auto single = load_or_fail(sentencepiece_json(false, false));
  const auto space = fused->token_id("▁").value();
  check_ids(encode(*fused, "日本"), {space, 0});
  check_ids(encode(*single, "日本"), {space, 0, 0});
}

BOOST_AUTO_TEST_CASE(text_that_is_not_utf8_is_refused_with_its_offset) {
  const auto tokenizer = load_or_fail(byte_level_json());
  const auto ids = tokenizer->encode("abc\xFFz", false);
  BOOST_REQUIRE(!ids.ok());
  BOOST_CHECK(ids.error().code == ErrorCode::kInvalidArgument);
  BOOST_CHECK_NE(ids.error().message.find("byte 3"), std::string::npos);
}

// A method that were quadratic in the length of a word would take hours here and run into the test's time limit.
BOOST_AUTO_TEST_CASE(a_word_of_a_million_letters_is_encoded) {
  const auto tokenizer = load_or_fail(byte_level_json());
  const auto ids = encode(*tokenizer, std::string(1'000'000, 'l'));
  BOOST_CHECK_EQUAL(ids.size(), 500'000u);
  BOOST_CHECK_EQUAL(encode(*tokenizer, std::string(1'000'000, ' ')).size(), 1'000'000u);
}

BOOST_AUTO_TEST_CASE(a_directory_without_a_tokenizer_is_not_found) {
  const auto tokenizer = Tokenizer::load("/nonexistent", Limits());
  BOOST_REQUIRE(!tokenizer.ok());
  BOOST_CHECK(tokenizer.error().code == ErrorCode::kNotFound);
  BOOST_CHECK_NE(tokenizer.error().message.find("tokenizer.json"), std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
