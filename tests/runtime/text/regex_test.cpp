#include "runtime/text/regex.h"

#include <boost/test/unit_test.hpp>

namespace troupe::text {
namespace {

// The matches in a text, joined by '|'.
std::string matches(std::string_view pattern, std::string_view text) {
  const auto regex = Regex::compile(pattern);
  BOOST_REQUIRE_MESSAGE(regex.ok(), (regex.ok() ? "" : regex.error().message));
  const auto found = regex->find_all(text);
  BOOST_REQUIRE_MESSAGE(found.ok(), (found.ok() ? "" : found.error().message));
  std::string joined;
  for (const Span& span : *found) {
    if (&span != &found->front()) joined += '|';
    joined += text.substr(span.begin, span.size());
  }
  return joined;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(regex)

BOOST_AUTO_TEST_CASE(words_are_letters_marks_digits_and_connectors) {
  BOOST_CHECK_EQUAL(matches("\\w+", "e\u0301_1 \u0915\u093F-\u00B2\u200D\u246E"), "e\u0301_1|\u0915\u093F|\u00B2");
  BOOST_CHECK_EQUAL(matches("[\\w-]+", "a-b c"), "a-b|c");
  BOOST_CHECK_EQUAL(matches("\\b\\w", "ab c\u0301d"), "a|c");
}

BOOST_AUTO_TEST_CASE(white_space_is_the_unicode_property) {
  BOOST_CHECK_EQUAL(matches("\\S+", "a\u3000b\u0085c\u180Ed"), "a|b|c\u180Ed");
  BOOST_CHECK_EQUAL(matches("[^\\s]+", "a\u00A0b"), "a|b");
}

BOOST_AUTO_TEST_CASE(anchors_are_of_lines_and_the_dot_ends_there) {
  BOOST_CHECK_EQUAL(matches("^.", "ab\ncd"), "a|c");
  BOOST_CHECK_EQUAL(matches("(?m:.+)", "a\nb"), "a\nb");
  BOOST_CHECK_EQUAL(matches(".+", "a\nb"), "a|b");
}

BOOST_AUTO_TEST_CASE(letters_mean_what_they_mean_in_tokenizer_files) {
  BOOST_CHECK_EQUAL(matches("\\h+", "xA9 g0"), "A9|0");
  BOOST_CHECK_EQUAL(matches("\\u00e9", "e\u00E9"), "\u00E9");
  BOOST_CHECK_EQUAL(matches("[[:alpha:]]+", "a\u093F1"), "a\u093F");
  BOOST_CHECK_EQUAL(matches("(?i:'s|'re)", "'S 'Re 's"), "'S|'Re|'s");
}

BOOST_AUTO_TEST_CASE(a_script_is_the_characters_of_that_script_alone) {
  BOOST_CHECK_EQUAL(matches("\\p{Han}+", "\u65E5\u672C\u3001\u8A9E"), "\u65E5\u672C|\u8A9E");
  BOOST_CHECK_EQUAL(matches("[^\\p{Han}]+", "\u65E5\u3001a\u8A9E"), "\u3001a");
}

BOOST_AUTO_TEST_CASE(a_plus_behind_an_interval_repeats_it) {
  BOOST_CHECK_EQUAL(matches("\\p{N}{2,3}+", "12345 6"), "12345");
  BOOST_CHECK_EQUAL(matches("(?:ab){1,1}+", "ababa"), "abab");
  BOOST_CHECK_EQUAL(matches("[ab]{,2}+c", "abababc"), "abababc");
  // Behind another quantifier it is possessive.
  BOOST_CHECK_EQUAL(matches("a++a", "aaa"), "");
}

BOOST_AUTO_TEST_CASE(empty_matches_are_found_once_between_others) {
  const auto regex = Regex::compile("x*");
  BOOST_REQUIRE(regex.ok());
  BOOST_CHECK_EQUAL(regex->find_all("axé")->size(), 3u);  // "", "x", "" at the end
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
