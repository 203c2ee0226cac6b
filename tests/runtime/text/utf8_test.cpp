#include "runtime/text/utf8.h"

#include <boost/test/unit_test.hpp>

namespace troupe::text {

BOOST_AUTO_TEST_SUITE(utf8)

BOOST_AUTO_TEST_CASE(the_first_broken_byte_is_found) {
  BOOST_CHECK(!invalid_utf8_offset("aé€😀"));
  BOOST_CHECK_EQUAL(invalid_utf8_offset("ab\xC0\x80").value(), 2u);        // overlong
  BOOST_CHECK_EQUAL(invalid_utf8_offset("a\xED\xA0\x80").value(), 1u);     // surrogate
  BOOST_CHECK_EQUAL(invalid_utf8_offset("\xF4\x90\x80\x80").value(), 0u);  // beyond U+10FFFF
  BOOST_CHECK_EQUAL(invalid_utf8_offset("a\xE2\x82").value(), 1u);         // cut
  BOOST_CHECK_EQUAL(invalid_utf8_offset("\x80").value(), 0u);
}

// The examples of Unicode 15, section 3.9, tables 3-8 to 3-11.
BOOST_AUTO_TEST_CASE(each_maximal_broken_part_is_one_replacement) {
  const auto lossy = [](std::string_view bytes) {
    std::string out;
    append_lossy(out, bytes);
    return out;
  };
  const std::string r(kReplacementCharacter);
  BOOST_CHECK_EQUAL(lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  BOOST_CHECK_EQUAL(lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  BOOST_CHECK_EQUAL(lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

BOOST_AUTO_TEST_CASE(the_beginning_of_a_character_is_left_out) {
  std::string out;
  BOOST_CHECK_EQUAL(append_lossy(out, "a\xF0\x9F\x98"), 3u);
  BOOST_CHECK_EQUAL(out, "a");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
