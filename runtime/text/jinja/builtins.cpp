#include "runtime/text/jinja/builtins.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <iterator>

#include "runtime/text/utf8.h"

namespace troupe::text::jinja {
namespace {

constexpr std::int64_t kMaxRange = 100'000;  // as in Jinja2's sandbox
constexpr std::string_view kFunctions[] = {"range", "namespace", "dict", "raise_exception", "strftime_now"};

Result<Value> range(Context& context, const Arguments& arguments) {
  std::int64_t bounds[3] = {0, 0, 1};  // first, end, step
  const std::size_t count = arguments.positional.size();
  if (count == 0 || count > 3) return invalid_argument("range() takes one to three whole numbers");
  for (std::size_t i = 0; i < count; ++i) {
    const auto [number, is_whole] = arguments.positional[i].whole();
    if (!is_whole) return invalid_argument("range() takes whole numbers");
    bounds[count == 1 ? 1 : i] = number;
  }
  const auto [first, end, step] = bounds;
  if (step == 0) return invalid_argument("the step of range() is not zero");
  List items;
  for (std::int64_t at = first; step > 0 ? at < end : at > end;) {
    if (items.size() >= kMaxRange)
      return resource_exhausted(fmt::format("range() gives at most {} numbers", kMaxRange));
    items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  TROUPE_RETURN_IF_ERROR(context.budget.fill(16 * items.size()));
  return Value::list(std::move(items));
}

Result<Value> name_space(const Arguments& arguments) {
  auto space = std::make_shared<Namespace>();
  if (!arguments.positional.empty()) {
    const Dict* given = arguments.positional[0].dict();
    if (given == nullptr) return invalid_argument("namespace() takes a dict and named values");
    space->members = *given;
  }
  for (const auto& [name, value] : arguments.named) {
    if (value.name_space() != nullptr) return invalid_argument("a namespace cannot be part of a namespace");
    assign(space->members, name, value);
  }
  return Value(std::move(space));
}

Result<Value> format_time(const Context& context, const Arguments& arguments) {
  const Value format = arguments.at(0, "format");
  if (format.string() == nullptr || format.string()->size() > 256) {
    return invalid_argument("strftime_now() takes a format of at most 256 bytes");
  }
  const std::time_t seconds = std::chrono::system_clock::to_time_t(context.now);
  std::tm local = {};
  localtime_r(&seconds, &local);
  std::string out(2048, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.string()->c_str(), &local));
  return Value(std::move(out));
}

}  // namespace

Value Arguments::at(std::size_t place, std::string_view name) const {
  if (place < positional.size()) return positional[place];
  for (const auto& [given, value] : named) {
    if (given == name) return value;
  }
  return Value();
}

bool is_function(std::string_view name) {
  return std::find(std::begin(kFunctions), std::end(kFunctions), name) != std::end(kFunctions);
}

Result<Value> call_function(Context& context, std::string_view name, const Arguments& arguments) {
  if (name == "range") return range(context, arguments);
  if (name == "namespace") return name_space(arguments);
  if (name == "dict") {
    Dict members;
    for (const auto& [key, value] : arguments.named) assign(members, key, value);
    return Value::dict(std::move(members));
  }
  if (name == "strftime_now") return format_time(context, arguments);
  const Value message = arguments.at(0, "message");
  return invalid_argument(message.string() == nullptr ? "the chat template refuses this conversation"
                                                      : message.string()->substr(0, 1024));
}

std::string_view stripped(std::string_view text, Side side, const std::string* characters) {
  std::vector<std::string_view> given;
  if (characters != nullptr) given = characters_of(*characters);
  const auto goes = [&](std::string_view character) {
    if (characters == nullptr) {
      const char32_t code = character_at(character, 0).code_point;
      return is_whitespace(code) || (code >= 0x1c && code <= 0x1f);  // what Python's str.isspace takes
    }
    return std::find(given.begin(), given.end(), character) != given.end();
  };
  while (side != Side::kRight && !text.empty()) {
    const std::size_t bytes = character_at(text, 0).bytes;
    if (!goes(text.substr(0, bytes))) break;
    text.remove_prefix(bytes);
  }
  while (side != Side::kLeft && !text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
    if (!goes(text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::vector<std::string_view> characters_of(std::string_view text) {
  std::vector<std::string_view> characters;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = character_at(text, at).bytes;
    characters.push_back(text.substr(at, bytes));
    at += bytes;
  }
  return characters;
}

}  // namespace troupe::text::jinja
