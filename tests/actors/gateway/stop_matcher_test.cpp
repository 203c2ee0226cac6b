#include "actors/gateway/stop_matcher.h"

#include <boost/test/unit_test.hpp>

using troupe::StopMatcher;

BOOST_AUTO_TEST_SUITE(stop_matcher)

static std::string cut(const std::vector<std::string>& stops, std::string_view text, std::size_t piece) {
  StopMatcher matcher(stops);
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += piece) {
    if (matcher.push(text.substr(i, piece), out)) return out + "|";
  }
  matcher.finish(out);
  return out;
}

BOOST_AUTO_TEST_CASE(how_the_text_is_cut_does_not_change_where_it_stops) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"stop"}, "we stop here"}, {{"abcd", "bc"}, "xabcdy"},   {{"aab"}, "aaaab"}, {{"\n\n"}, "a\nb\n\nc"},
      {{"never"}, "neve nev"},    {{"ab", "aab"}, "xxaabyyab"}, {{"x"}, "x"},       {{"END", "EN"}, "the END"},
  };
  for (const auto& [stops, text] : cases) {
    const std::string whole = cut(stops, text, 1);
    for (std::size_t piece = 2; piece <= text.size(); ++piece) BOOST_TEST(cut(stops, text, piece) == whole);
  }
}

BOOST_AUTO_TEST_CASE(text_before_the_stop_string_is_given_out_and_nothing_after) {
  BOOST_TEST(cut({"stop"}, "we stop here", 3) == "we |");
  BOOST_TEST(cut({"ab", "aab"}, "xxaabyy", 2) == "xx|");
  BOOST_TEST(cut({"abcd", "bc"}, "xabcdy", 6) == "xa|");
}

BOOST_AUTO_TEST_CASE(only_what_may_begin_a_stop_string_is_held_back) {
  StopMatcher matcher({"</s>"});
  std::string out;
  BOOST_TEST(!matcher.push("hello <", out));
  BOOST_TEST(out == "hello ");
  BOOST_TEST(!matcher.push("b>", out));
  BOOST_TEST(out == "hello <b>");
  BOOST_TEST(!matcher.push("</s", out));
  matcher.finish(out);
  BOOST_TEST(out == "hello <b></s");
}

BOOST_AUTO_TEST_SUITE_END()
