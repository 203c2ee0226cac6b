#include "runtime/text/chat_template.h"

#include <boost/test/unit_test.hpp>

namespace troupe::text {
namespace {

constexpr std::string_view kPlain =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

ChatTemplate parse_or_fail(std::string_view source) {
  auto chat = ChatTemplate::parse(source, "chat_template.jinja");
  BOOST_REQUIRE_MESSAGE(chat.ok(), chat.error().message);
  return std::move(chat).value();
}

std::string render(const ChatTemplate& chat, const std::vector<ChatMessage>& messages, bool prompt = true) {
  const auto text = chat.render(messages, prompt);
  BOOST_REQUIRE_MESSAGE(text.ok(), text.error().message);
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

BOOST_AUTO_TEST_CASE(a_template_that_differs_in_anything_is_refused) {
  const std::string plain(kPlain);
  const auto replaced = [&](std::string_view from, std::string_view to) {
    std::string source = plain;
    return source.replace(source.find(from), from.size(), to);
  };
  for (const std::string& source :
       {replaced("'<|im_end|>'", "'<|im_end|> '"), replaced("message['content']", "message['content'] | trim"),
        replaced("messages %}", "messages[1:] %}"), replaced("assistant\\n", "assistant"),
        replaced("{% endfor %}", "\n{% endfor %}"), replaced("{% for", "{{ bos_token }}{% for"),
        std::string("Hello {{ messages }}"), std::string()}) {
    BOOST_TEST_CONTEXT(source) {
      const auto chat = ChatTemplate::parse(source, "model/chat_template.jinja");
      BOOST_REQUIRE(!chat.ok());
      BOOST_CHECK(chat.error().code == ErrorCode::kUnsupported);
      BOOST_CHECK_NE(chat.error().message.find("model/chat_template.jinja"), std::string::npos);
      BOOST_CHECK_NE(chat.error().message.find("/v1/completions"), std::string::npos);
    }
  }
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
  const auto prompt = chat.render(messages, true);
  BOOST_REQUIRE(!prompt.ok());
  BOOST_CHECK_EQUAL(prompt.error().param, "messages[1].role");
  const auto empty = chat.render({}, true);
  BOOST_REQUIRE(!empty.ok());
  BOOST_CHECK_EQUAL(empty.error().param, "messages");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::text
