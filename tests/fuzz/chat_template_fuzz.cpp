// Feeds arbitrary bytes as a chat template. Whatever is a template must make text, or say why not, within its limits.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/text/chat_template.h"
#include "runtime/text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace troupe::text;
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto chat = ChatTemplate::parse(source, "fuzz", {{"bos_token", jinja::Value("<s>")}});
  if (!chat) return 0;
  const ChatMessage messages[] = {
      {"system", "Be brief."}, {"user", " Hi \xC3\xA9\n"}, {"assistant", "<think>a</think>b"}};
  ChatOptions options;
  options.arguments = {{"enable_thinking", jinja::Value(false)}};
  options.now = {};
  const auto prompt = chat->render(messages, options);
  if (prompt ? invalid_utf8_offset(*prompt).has_value() : prompt.error().message.empty()) std::abort();
  return 0;
}
