#include "runtime/text/stream_decoder.h"

#include <boost/test/unit_test.hpp>
#include <random>

#include "runtime/text/utf8.h"
#include "tests/runtime/text/small_tokenizers.h"

namespace troupe::text {
namespace {

// Pushes all tokens; every piece must be whole characters.
std::string stream(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<std::uint32_t>& tokens,
                   bool skip_special_tokens) {
  StreamDecoder decoder(tokenizer, skip_special_tokens);
  std::string text;
  for (const auto token : tokens) {
    const std::string piece = decoder.push(token);
    BOOST_REQUIRE(!invalid_utf8_offset(piece));
    text += piece;
  }
  const std::string rest = decoder.finish();
  BOOST_REQUIRE(!invalid_utf8_offset(rest));
  return text + rest;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(stream_decoder)

BOOST_AUTO_TEST_CASE(the_pieces_of_random_tokens_are_what_decode_says) {
  std::mt19937 random(7);
  for (const std::string& json : {byte_level_json(), sentencepiece_json()}) {
    const auto tokenizer = load_or_fail(json);
    for (int round = 0; round < 2000; ++round) {
      std::vector<std::uint32_t> tokens(random() % 12);
      // Ids behind the vocabulary are among them.
      for (auto& token : tokens) token = random() % (tokenizer->vocab_size() + 2);
      const bool skip = random() % 2 == 0;
      BOOST_REQUIRE_EQUAL(stream(tokenizer, tokens, skip), tokenizer->decode(tokens, skip));
    }
  }
}

BOOST_AUTO_TEST_CASE(an_emoji_comes_whole_with_its_last_token) {
  StreamDecoder decoder(load_or_fail(byte_level_json()), true);
  BOOST_CHECK_EQUAL(decoder.push(0xF0), "");
  BOOST_CHECK_EQUAL(decoder.push(0x9F), "");
  BOOST_CHECK_EQUAL(decoder.push(0x98), "");
  BOOST_CHECK_EQUAL(decoder.push(0x80), "😀");
  BOOST_CHECK_EQUAL(decoder.finish(), "");
}

BOOST_AUTO_TEST_CASE(a_character_that_never_ends_is_replaced) {
  StreamDecoder decoder(load_or_fail(byte_level_json()), true);
  BOOST_CHECK_EQUAL(decoder.push(0xF0), "");
  BOOST_CHECK_EQUAL(decoder.push(0x9F), "");
  BOOST_CHECK_EQUAL(decoder.push('a'), "\uFFFDa");
  BOOST_CHECK_EQUAL(decoder.push(0xE2), "");
  BOOST_CHECK_EQUAL(decoder.finish(), "\uFFFD");
}

BOOST_AUTO_TEST_CASE(only_the_first_space_of_a_sentencepiece_text_is_removed) {
  const auto tokenizer = load_or_fail(sentencepiece_json());
  const auto the = tokenizer->token_id("▁the").value();
  StreamDecoder decoder(tokenizer, true);
  BOOST_CHECK_EQUAL(decoder.push(1), "");
  BOOST_CHECK_EQUAL(decoder.push(the), "the");
  BOOST_CHECK_EQUAL(decoder.push(the), " the");
}

BOOST_AUTO_TEST_CASE(byte_tokens_wait_for_the_end_of_their_run) {
  const auto tokenizer = load_or_fail(sentencepiece_json());
  const auto h = tokenizer->token_id("h").value();
  StreamDecoder decoder(tokenizer, true);
  BOOST_CHECK_EQUAL(decoder.push(3 + 0xC3), "");
  BOOST_CHECK_EQUAL(decoder.push(3 + 0xA9), "");
  BOOST_CHECK_EQUAL(decoder.push(h), "éh");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
