#include "runtime/text/normalizer.h"

#include <boost/test/unit_test.hpp>

namespace troupe::text {
namespace {

std::string normalize(std::string_view json, std::string text) {
  const auto document = JsonDocument::parse(json, "t", Limits());
  BOOST_REQUIRE(document.ok());
  const auto normalizer = parse_normalizer(JsonNode(*document));
  BOOST_REQUIRE_MESSAGE(normalizer.ok(), (normalizer.ok() ? "" : normalizer.error().message));
  NormalizedText normalized{std::move(text), true};
  BOOST_REQUIRE((*normalizer)->apply(normalized).ok());
  return normalized.text;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(normalizer)

BOOST_AUTO_TEST_CASE(unicode_forms_compose_and_decompose) {
  BOOST_CHECK_EQUAL(normalize(R"({"type":"NFC"})", "e\u0301 \u1100\u1161 \uFB01"), "\u00E9 \uAC00 \uFB01");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"NFD"})", "\u00E9 \uAC00"), "e\u0301 \u1100\u1161");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"NFKC"})", "\uFB01 \u00B2 e\u0301"), "fi 2 \u00E9");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"NFKD"})", "\uFB01\u00E9"), "fie\u0301");
}

BOOST_AUTO_TEST_CASE(combining_marks_are_put_in_order) {
  // A dot above (class 230) before a cedilla (class 202).
  BOOST_CHECK_EQUAL(normalize(R"({"type":"NFD"})", "a\u0307\u0327"), "a\u0327\u0307");
}

// An ordering by repeated exchange would take hours.
BOOST_AUTO_TEST_CASE(a_million_marks_in_the_wrong_order_are_sorted) {
  std::string text = "a";
  for (int i = 0; i < 500'000; ++i) text += "\u0307";
  for (int i = 0; i < 500'000; ++i) text += "\u0327";
  BOOST_CHECK_EQUAL(normalize(R"({"type":"NFD"})", text).substr(0, 5), "a\u0327\u0327");
}

BOOST_AUTO_TEST_CASE(letters_and_accents) {
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Lowercase"})", "ÀΣ\u0130ß"), "àσi\u0307ß");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"StripAccents"})", "e\u0301a\u0327"), "ea");
}

BOOST_AUTO_TEST_CASE(prepend_replace_and_strip) {
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Prepend","prepend":"_"})", "a"), "_a");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Prepend","prepend":"_"})", ""), "");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Replace","pattern":{"Regex":"\\s+"},"content":"$1"})", "a \t b"), "a$1b");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Replace","pattern":{"String":"."},"content":"!"})", "a.b"), "a!b");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Strip"})", " \u3000a b\n"), "a b");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Strip","strip_left":false,"strip_right":true})", " a "), " a");
  BOOST_CHECK_EQUAL(normalize(R"({"type":"Strip"})", "  "), "");
}

BOOST_AUTO_TEST_CASE(a_sequence_applies_its_steps_in_order) {
  BOOST_CHECK_EQUAL(
      normalize(R"({"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"StripAccents"},{"type":"Lowercase"}]})",
                "\u00C9T\u00C9"),
      "ete");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
