#include "runtime/text/jinja/template.h"

#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>

namespace troupe::text::jinja {
namespace {

namespace json = boost::json;

// 2024-07-26 12:00 UTC, as in goldens.py.
const std::chrono::system_clock::time_point kNow = std::chrono::system_clock::from_time_t(1721995200);

Value value_of(const json::value& from) {
  if (from.is_null()) return Value(None());
  if (from.is_bool()) return Value(from.get_bool());
  if (from.is_int64()) return Value(static_cast<std::int64_t>(from.get_int64()));
  if (from.is_double()) return Value(from.get_double());
  if (from.is_string()) return Value(std::string_view(from.get_string()));
  if (from.is_array()) {
    List items;
    for (const json::value& item : from.get_array()) items.push_back(value_of(item));
    return *Value::list(std::move(items));
  }
  Dict members;
  for (const auto& member : from.get_object())
    members.emplace_back(std::string(member.key()), value_of(member.value()));
  return *Value::dict(std::move(members));
}

Result<std::string> rendered(std::string_view source, Dict globals = {}) {
  const auto parsed = Template::parse(source);
  if (!parsed.ok()) return parsed.error();
  return parsed->render(std::move(globals), kNow);
}

void check_fails(std::string_view source, ErrorCode code, std::string_view words) {
  BOOST_TEST_CONTEXT(source.substr(0, 100)) {
    const auto text = rendered(source);
    BOOST_REQUIRE(!text.ok());
    BOOST_CHECK_MESSAGE(text.error().code == code, to_string(text.error().code));
    BOOST_CHECK_MESSAGE(text.error().message.find(words) != std::string::npos, text.error().message);
  }
}

std::string times(std::size_t count, std::string_view text) {
  std::string out;
  for (; count > 0; --count) out += text;
  return out;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(jinja_template)

BOOST_AUTO_TEST_CASE(templates_print_what_jinja2_prints) {
  std::ifstream file(TROUPE_SOURCE_DIR "/tests/runtime/text/jinja/goldens.json");
  std::stringstream text;
  text << file.rdbuf();
  const json::value goldens = json::parse(text.str());
  const Value globals = value_of(goldens.at("globals"));
  std::size_t printed = 0, refused = 0;
  for (const json::value& golden : goldens.at("cases").as_array()) {
    const std::string_view source = golden.at("template").as_string();
    BOOST_TEST_CONTEXT(source) {
      const auto result = rendered(source, *globals.dict());
      if (golden.at("text").is_null()) {
        BOOST_CHECK(!result.ok());
        ++refused;
      } else {
        BOOST_CHECK_EQUAL(result.ok() ? *result : "error: " + result.error().message,
                          std::string_view(golden.at("text").as_string()));
        ++printed;
      }
    }
  }
  BOOST_CHECK_GT(printed, 200u);
  BOOST_CHECK_GT(refused, 30u);
}

BOOST_AUTO_TEST_CASE(an_error_names_the_line) {
  check_fails("a\n{% if x %}\n{{ 1 + }}\n", ErrorCode::kCorruptData, "line 3");
  check_fails("a\n\n{{ 'a' + 1 }}", ErrorCode::kInvalidArgument, "line 3: '+' does not go together");
  check_fails("{#\n#}\n{%- set x =\n 1 -%}\n\n{{ x.y.z }}", ErrorCode::kInvalidArgument, "line 6: something undefined");
  check_fails("{{ 'a'.nothing() }}", ErrorCode::kUnsupported, "line 1: string has no method 'nothing'");
  check_fails("\n{% include 'x' %}", ErrorCode::kUnsupported, "line 2: statement 'include' is not known");
  check_fails("{{ x | shuffle }}", ErrorCode::kUnsupported, "filter 'shuffle' is not known");
  check_fails("{{ x is prime }}", ErrorCode::kUnsupported, "test 'prime' is not known");
  check_fails("\xff", ErrorCode::kCorruptData, "UTF-8 at byte 0");
}

BOOST_AUTO_TEST_CASE(what_a_template_raises_is_said_as_it_is) {
  const auto text = rendered("\n{% for i in [1] %}{{ raise_exception('Roles must alternate.') }}{% endfor %}");
  BOOST_REQUIRE(!text.ok());
  BOOST_CHECK(text.error().code == ErrorCode::kInvalidArgument);
  BOOST_CHECK_EQUAL(text.error().message, "Roles must alternate.");
}

BOOST_AUTO_TEST_CASE(a_template_cannot_run_for_ever) {
  const std::string loops = "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}";
  check_fails(loops, ErrorCode::kResourceExhausted, "the template ");
  check_fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ErrorCode::kResourceExhausted,
              "macros call each other");
  check_fails("{{ 'x' * 999999999999 }}", ErrorCode::kResourceExhausted, "too much text");
  check_fails("{% set ns = namespace(t='xxxxxxxx') %}{% for i in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
              ErrorCode::kResourceExhausted, "too much text");
  check_fails("{% set t = 'x' * 1000000 %}{% for i in range(99999) %}{% if t == t ~ 'y' %}{% endif %}{% endfor %}",
              ErrorCode::kResourceExhausted, "too much text");
  check_fails("{% set t = 'x' * 1000000 %}{% for i in range(99999) %}{{ t[i] }}{% endfor %}",
              ErrorCode::kResourceExhausted, "too much text");
}

BOOST_AUTO_TEST_CASE(a_template_cannot_exhaust_the_stack) {
  check_fails("{{ " + times(100'000, "(") + "1" + times(100'000, ")") + "}}", ErrorCode::kResourceExhausted,
              "nested deeper");
  check_fails("{{ " + times(100'000, "[") + "1" + times(100'000, "]") + "}}", ErrorCode::kResourceExhausted,
              "nested deeper");
  check_fails("{{ " + times(100'000, "{'a': ") + "1" + times(100'000, "}") + " }}", ErrorCode::kResourceExhausted,
              "nested deeper");
  check_fails("{{ " + times(100'000, "not ") + "1 }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ " + times(100'000, "-") + "1 }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ 1" + times(100'000, " + 1") + " }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ 1" + times(100'000, " or 1") + " }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ a" + times(100'000, ".a") + " }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ a" + times(50'000, "()[0]") + " }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ a" + times(50'000, "|trim") + " }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ 1" + times(50'000, " if 1 else 2") + " }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{{ a is defined" + times(50'000, " is defined") + " }}", ErrorCode::kResourceExhausted, "nested deeper");
  check_fails(times(30'000, "{% if 1 %}"), ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{% set ns = namespace(t=[]) %}{% for i in range(9999) %}{% set ns.t = [ns.t] %}{% endfor %}",
              ErrorCode::kResourceExhausted, "nested deeper");
  check_fails("{% set ns = namespace() %}{% set ns.t = [ns] %}", ErrorCode::kInvalidArgument, "namespace");
  check_fails("{% set ns = namespace() %}{% set ns.t = ns %}", ErrorCode::kInvalidArgument, "namespace");
}

BOOST_AUTO_TEST_CASE(a_chain_of_elifs_may_be_long) {
  std::string source = "{% if missing %}";
  for (int i = 0; i < 5'000; ++i) source += "{% elif missing %}";
  const auto text = rendered(source + "{% else %}end{% endif %}");
  BOOST_REQUIRE_MESSAGE(text.ok(), (text.ok() ? "" : text.error().message));
  BOOST_CHECK_EQUAL(*text, "end");
}

BOOST_AUTO_TEST_CASE(every_beginning_of_a_template_is_taken_or_refused) {
  const std::string source =
      "{%- macro m(a, b='x') -%}{{ a ~ b }}{%- endmacro -%}{% for k, v in {'a': [1, 2.5]}.items() if k is defined %}"
      "{{ m(k, v[0:1]) | upper }}{# c #}{% if not v and (1 < 2) %}{% elif 1 %}{% set n.x %}{% endset %}{% endif %}"
      "{% endfor %}{% raw %}{{{% endraw %}";
  for (std::size_t size = 0; size <= source.size(); ++size) {
    const auto parsed = Template::parse(std::string_view(source).substr(0, size));
    if (!parsed.ok()) BOOST_CHECK(!parsed.error().message.empty());
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text::jinja
