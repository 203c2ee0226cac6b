#include "runtime/text/added_tokens.h"

#include <boost/test/unit_test.hpp>

#include "tests/runtime/text/small_tokenizers.h"

namespace troupe::text {
namespace {

std::vector<std::uint32_t> ids_with(const std::string& flags, const std::string& content, std::string_view text) {
  const std::string token = R"(,{"id":264,"content":")" + content + R"(",)" + flags + "}";
  const auto ids = load_or_fail(byte_level_json("null", token))->encode(text, false);
  BOOST_REQUIRE_MESSAGE(ids.ok(), (ids.ok() ? "" : ids.error().message));
  return *ids;
}

void check(const std::vector<std::uint32_t>& got, const std::vector<std::uint32_t>& wanted) {
  BOOST_CHECK_EQUAL_COLLECTIONS(got.begin(), got.end(), wanted.begin(), wanted.end());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(added_tokens)

BOOST_AUTO_TEST_CASE(a_single_word_token_is_not_found_inside_a_word) {
  check(ids_with(R"("single_word":true)", "xy", "xy a xyz"), {264, ' ', 'a', ' ', 'x', 'y', 'z'});
}

BOOST_AUTO_TEST_CASE(stripping_tokens_take_the_white_space_beside_them) {
  check(ids_with(R"("lstrip":true)", "<m>", "a \t<m> b"), {'a', 264, ' ', 'b'});
  check(ids_with(R"("rstrip":true)", "<m>", "a <m> \n b"), {'a', ' ', 264, 'b'});
}

BOOST_AUTO_TEST_CASE(white_space_is_taken_once) {
  check(ids_with(R"("lstrip":true,"rstrip":true)", "  ", "a       b"), {'a', 264, 'b'});
}

BOOST_AUTO_TEST_CASE(the_longest_of_several_tokens_wins) {
  check(ids_with(R"("special":true)", "<|im_start|>x", "<|im_start|>xy<|im_start|>"), {264, 'y', 262});
}

BOOST_AUTO_TEST_CASE(a_normalised_token_is_found_in_the_normalised_text_only) {
  const std::string lowercase = R"({"type":"Lowercase"})";
  const auto with = [&](const char* normalized) {
    return load_or_fail(
        byte_level_json(lowercase, std::string(R"(,{"id":264,"content":"ABC","normalized":)") + normalized + "}"));
  };
  check(*with("true")->encode("abc", false), {264});
  check(*with("false")->encode("abc", false), {'a', 'b', 'c'});
  check(*with("false")->encode("ABC", false), {264});
}

// Scanning the same white space again for each token in it would take hours.
BOOST_AUTO_TEST_CASE(a_million_spaces_between_stripping_tokens_are_scanned_once) {
  BOOST_CHECK_EQUAL(ids_with(R"("rstrip":true)", "  ", std::string(1'000'000, ' ')).size(), 500'000u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
