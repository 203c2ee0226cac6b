#include "runtime/text/chat_template.h"

#include <boost/test/unit_test.hpp>
#include <chrono>

namespace troupe::text {
namespace {

constexpr std::string_view kPlain =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

ChatTemplate parse_or_fail(std::string_view source) {
  auto chat = ChatTemplate::parse(source, "chat_template.jinja");
  BOOST_REQUIRE_MESSAGE(chat.ok(), (chat.ok() ? "" : chat.error().message));
  return std::move(chat).value();
}

std::string render(const ChatTemplate& chat, const std::vector<ChatMessage>& messages, bool prompt = true) {
  const auto text = chat.render(messages, {.add_generation_prompt = prompt});
  BOOST_REQUIRE_MESSAGE(text.ok(), (text.ok() ? "" : text.error().message));
  return *text;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(chat_template)

BOOST_AUTO_TEST_CASE(plain_chatml_says_each_message_and_asks_for_the_answer) {
  const auto chat = parse_or_fail(kPlain);
  BOOST_CHECK_EQUAL(render(chat, {{"system", "Be brief."}, {"user", "Hi"}}),
                    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  BOOST_CHECK_EQUAL(render(chat, {{"user", "Hi"}}, false), "<|im_start|>user\nHi<|im_end|>\n");
}

BOOST_AUTO_TEST_CASE(other_layouts_and_spellings_of_chatml_are_the_same_template) {
  const std::vector<ChatMessage> messages = {{"user", "Hi"}};
  const std::string wanted = render(parse_or_fail(kPlain), messages);
  for (const std::string_view source : {
           "{% for message in messages %}\n{{ \"<|im_start|>\" ~ message.role ~ \"\\n\" ~ message.content ~ "
           "\"<|im_end|>\\n\" }}\n{%- endfor %}\n{% if add_generation_prompt %}\n{{- '<|im_start|>assistant\\n' }}\n"
           "{%- endif %}\n",
           "{%- for message in messages -%}\n  {{- '<|im_start|>' + message['role'] + '\\n' -}}\n"
           "  {{- message['content'] + '<|im_end|>\\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n"
           "  {{- '<|im_start|>assistant\\n' -}}\n{%- endif -%}",
           "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
           "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
           "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
           "{% endif %}",
           "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
           "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
       }) {
    BOOST_TEST_CONTEXT(source) { BOOST_CHECK_EQUAL(render(parse_or_fail(source), messages), wanted); }
  }
}

BOOST_AUTO_TEST_CASE(a_default_system_message_is_said_when_there_is_none) {
  const auto chat = parse_or_fail(
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
      "'<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + "
      "message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt "
      "%}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  BOOST_CHECK_EQUAL(render(chat, {{"user", "Hi"}}, false),
                    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
  BOOST_CHECK_EQUAL(render(chat, {{"system", "S"}}, false), "<|im_start|>system\nS<|im_end|>\n");
}

BOOST_AUTO_TEST_CASE(a_template_knows_the_special_tokens_and_the_arguments) {
  const auto chat = ChatTemplate::parse(
      "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ tools is none }}{{ documents is none }}"
      "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}",
      "t", {{"bos_token", jinja::Value("<s>")}});
  BOOST_REQUIRE_MESSAGE(chat.ok(), (chat.ok() ? "" : chat.error().message));
  BOOST_CHECK_EQUAL(render(*chat, {{"user", "Hi"}}), "<s>HiTrueTrue");
  const ChatMessage message = {"user", "Hi"};
  const ChatOptions options = {.arguments = {{"enable_thinking", jinja::Value(false)}}};
  BOOST_CHECK_EQUAL(*chat->render({&message, 1}, options), "<s>HiTrueTrueno");
}

BOOST_AUTO_TEST_CASE(a_template_may_know_the_date) {
  const auto chat = parse_or_fail("{{ strftime_now('%Y-%m-%d') }}");
  const ChatMessage message = {"user", "Hi"};
  const ChatOptions options = {.now = std::chrono::system_clock::from_time_t(1721995200)};
  BOOST_CHECK_EQUAL(*chat.render({&message, 1}, options), "2024-07-26");
}

BOOST_AUTO_TEST_CASE(what_a_template_lacks_names_its_file_and_what_is_left_to_do) {
  const auto chat = ChatTemplate::parse("\n{% include 'x' %}", "model/chat_template.jinja");
  BOOST_REQUIRE(!chat.ok());
  BOOST_CHECK(chat.error().code == ErrorCode::kUnsupported);
  BOOST_CHECK_NE(chat.error().message.find("model/chat_template.jinja: line 2: "), std::string::npos);
  BOOST_CHECK_NE(chat.error().message.find("/v1/completions"), std::string::npos);
}

BOOST_AUTO_TEST_CASE(what_a_template_refuses_is_the_askers_mistake) {
  const auto chat = parse_or_fail(
      "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
      "{{ raise_exception('Roles must alternate.') }}{% endif %}{{ m.content }}{% endfor %}");
  BOOST_CHECK_EQUAL(render(chat, {{"user", "a"}, {"assistant", "b"}}), "ab");
  const std::vector<ChatMessage> messages = {{"user", "a"}, {"user", "b"}};
  const auto prompt = chat.render(messages, {});
  BOOST_REQUIRE(!prompt.ok());
  BOOST_CHECK(prompt.error().code == ErrorCode::kInvalidArgument);
  BOOST_CHECK_EQUAL(prompt.error().message, "Roles must alternate.");
  BOOST_CHECK_EQUAL(prompt.error().param, "messages");
}

BOOST_AUTO_TEST_CASE(a_template_that_makes_nothing_is_an_error) {
  const ChatMessage message = {"user", "Hi"};
  const auto prompt = parse_or_fail("{% if false %}x{% endif %}").render({&message, 1}, {});
  BOOST_REQUIRE(!prompt.ok());
  BOOST_CHECK(prompt.error().code == ErrorCode::kUnsupported);
}

BOOST_AUTO_TEST_CASE(an_unfinished_tag_is_corrupt) {
  for (const char* source : {"{% for", "{{ 'a", "a {{ 'b\\", "{%", "{{ x }"}) {
    const auto chat = ChatTemplate::parse(source, "t");
    BOOST_REQUIRE(!chat.ok());
    BOOST_CHECK(chat.error().code == ErrorCode::kCorruptData);
  }
}

BOOST_AUTO_TEST_CASE(an_unknown_role_names_its_message) {
  const auto chat = parse_or_fail(kPlain);
  const std::vector<ChatMessage> messages = {{"user", "Hi"}, {"user<|im_end|>", "x"}};
  const auto prompt = chat.render(messages, {});
  BOOST_REQUIRE(!prompt.ok());
  BOOST_CHECK_EQUAL(prompt.error().param, "messages[1].role");
  const auto empty = chat.render({}, {});
  BOOST_REQUIRE(!empty.ok());
  BOOST_CHECK_EQUAL(empty.error().param, "messages");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
