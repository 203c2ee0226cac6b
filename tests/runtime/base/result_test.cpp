#include "runtime/base/result.h"

#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/log.h"

using namespace troupe;

BOOST_AUTO_TEST_SUITE(result)

static Result<int> half(int value) {
  if (value % 2 != 0) return invalid_argument("odd", "value");
  return value / 2;
}

static Result<int> quarter(int value) {
  TROUPE_ASSIGN_OR_RETURN(const int first, half(value));
  return half(first);
}

BOOST_AUTO_TEST_CASE(an_error_reaches_the_caller_with_its_parameter) {
  BOOST_TEST(quarter(8).value() == 2);
  BOOST_TEST(!quarter(6).ok());
  BOOST_TEST(quarter(6).error().param == "value");
}

BOOST_AUTO_TEST_CASE(every_limit_has_a_default_inside_its_range) {
  const Limits defaults;
  for (const LimitField& field : limit_fields()) {
    Limits limits;
    BOOST_TEST_CONTEXT(field.name) { BOOST_TEST(set_limit(limits, field.name, defaults.*field.field).ok()); }
  }
}

BOOST_AUTO_TEST_CASE(a_limit_outside_its_range_is_refused_by_name) {
  Limits limits;
  const auto refused = set_limit(limits, "block_size", 100'000);
  BOOST_TEST(refused.error().param == "block_size");
  BOOST_TEST(limits.block_size == Limits{}.block_size);
  BOOST_TEST(!set_limit(limits, "no_such_limit", 1).ok());
}

BOOST_AUTO_TEST_CASE(text_from_outside_cannot_break_a_log_line) {
  BOOST_TEST(printable("a\nb\"c") == "a\\u000ab\\\"c");
  BOOST_TEST(printable("abcdef", 3) == "abc...");
  BOOST_TEST(one_line("\"a\\\nb\" is a sentence") == "\"a\\\\u000ab\" is a sentence");
  BOOST_TEST(printable("\xff\xc3\xa9\xed\xa0\x80\xe2\x82") == "\\u00ff\xc3\xa9\\u00ed\\u00a0\\u0080\\u00e2\\u0082");
}

BOOST_AUTO_TEST_CASE(text_is_cut_between_characters) {
  const std::string text = "a\xe2\x82\xac\xf0\x9f\x98\x80";  // 1, 3 and 4 bytes
  const std::vector<std::string> fronts = {"", "a", "a", "a", text.substr(0, 4), text.substr(0, 4)};
  for (std::size_t bytes = 0; bytes < fronts.size(); ++bytes) {
    BOOST_TEST(printable(text, bytes) == fronts[bytes] + "...");
  }
  BOOST_TEST(printable(text, 8) == text);
}

BOOST_AUTO_TEST_SUITE_END()
