#include "runtime/text/pre_tokenizer.h"

#include <boost/test/unit_test.hpp>

namespace troupe::text {
namespace {

// The pieces of a text, joined by '|'.
std::string split(std::string_view json, std::string text, bool at_start = true) {
  const auto document = JsonDocument::parse(json, "t", Limits());
  BOOST_REQUIRE(document.ok());
  const auto pre_tokenizer = parse_pre_tokenizer(JsonNode(*document));
  BOOST_REQUIRE_MESSAGE(pre_tokenizer.ok(), (pre_tokenizer.ok() ? "" : pre_tokenizer.error().message));
  Pieces pieces{std::move(text), {}, at_start};
  pieces.spans = {{0, pieces.text.size()}};
  BOOST_REQUIRE((*pre_tokenizer)->apply(pieces).ok());
  std::string joined;
  for (const Span& span : pieces.spans) {
    if (!joined.empty()) joined += '|';
    joined += pieces.text.substr(span.begin, span.size());
  }
  return joined;
}

std::string split_at_dashes(std::string_view behavior, bool invert = false) {
  return split(R"({"type":"Split","pattern":{"Regex":"-"},"behavior":")" + std::string(behavior) + R"(","invert":)" +
                   (invert ? "true" : "false") + "}",
               "the-final--countdown");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(pre_tokenizer)

BOOST_AUTO_TEST_CASE(split_treats_delimiters_as_told) {
  BOOST_CHECK_EQUAL(split_at_dashes("Removed"), "the|final|countdown");
  BOOST_CHECK_EQUAL(split_at_dashes("Isolated"), "the|-|final|-|-|countdown");
  BOOST_CHECK_EQUAL(split_at_dashes("MergedWithPrevious"), "the-|final-|-|countdown");
  BOOST_CHECK_EQUAL(split_at_dashes("MergedWithNext"), "the|-final|-|-countdown");
  BOOST_CHECK_EQUAL(split_at_dashes("Contiguous"), "the|-|final|--|countdown");
  BOOST_CHECK_EQUAL(split_at_dashes("Removed", true), "-|-|-");
}

BOOST_AUTO_TEST_CASE(byte_level_splits_words_and_spells_bytes) {
  BOOST_CHECK_EQUAL(split(R"({"type":"ByteLevel","add_prefix_space":true})", "don't  stop 12"), "Ġdon|'t|Ġ|Ġstop|Ġ12");
  BOOST_CHECK_EQUAL(split(R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})", "é b"), "Ã©Ġb");
}

BOOST_AUTO_TEST_CASE(metaspace_marks_spaces_and_the_beginning) {
  BOOST_CHECK_EQUAL(split(R"({"type":"Metaspace"})", "a  b"), "▁a|▁|▁b");
  BOOST_CHECK_EQUAL(split(R"({"type":"Metaspace","prepend_scheme":"first","split":false})", "a b"), "▁a▁b");
  BOOST_CHECK_EQUAL(split(R"({"type":"Metaspace","prepend_scheme":"first","split":false})", "a b", false), "a▁b");
  BOOST_CHECK_EQUAL(split(R"({"type":"Metaspace","add_prefix_space":false})", "a b"), "a|▁b");
  BOOST_CHECK_EQUAL(split(R"({"type":"Metaspace"})", " a"), "▁a");
}

BOOST_AUTO_TEST_CASE(character_classes) {
  BOOST_CHECK_EQUAL(split(R"({"type":"Digits","individual_digits":true})", "a12½"), "a|1|2|½");
  BOOST_CHECK_EQUAL(split(R"({"type":"Digits"})", "a12b"), "a|12|b");
  BOOST_CHECK_EQUAL(split(R"({"type":"Whitespace"})", "Hi you_2, ok?!"), "Hi|you_2|,|ok|?!");
  BOOST_CHECK_EQUAL(split(R"({"type":"WhitespaceSplit"})", " a,\u3000b "), "a,|b");
  BOOST_CHECK_EQUAL(split(R"({"type":"Punctuation"})", "a.b\u3002"), "a|.|b|\u3002");
}

BOOST_AUTO_TEST_CASE(a_sequence_cuts_the_pieces_of_the_step_before) {
  BOOST_CHECK_EQUAL(split(R"({"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},)"
                          R"({"type":"Metaspace","prepend_scheme":"first"}]})",
                          "a b"),
                    "▁a|b");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
