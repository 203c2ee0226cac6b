#include "runtime/text/pattern.h"

namespace troupe::text {

Result<Pattern> Pattern::parse(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto plain, node.find("String"));
  if (plain) {
    TROUPE_ASSIGN_OR_RETURN(const auto text, plain->string());
    if (text.empty()) return plain->corrupt("must not be empty");
    return Pattern(std::string(text));
  }
  TROUPE_ASSIGN_OR_RETURN(const auto expression, node.find("Regex"));
  if (!expression) return node.corrupt("must have \"String\" or \"Regex\"");
  TROUPE_ASSIGN_OR_RETURN(const auto source, expression->string());
  auto regex = Regex::compile(source);
  if (!regex) return std::move(regex).error().within(expression->origin() + ": " + expression->path());
  return Pattern(std::move(regex).value());
}

Result<std::vector<Span>> Pattern::find_all(std::string_view text) const {
  if (regex_) return regex_->find_all(text);
  std::vector<Span> found;
  for (auto at = text.find(text_); at != std::string_view::npos; at = text.find(text_, at + text_.size())) {
    found.push_back({at, at + text_.size()});
  }
  return found;
}

Result<std::string> Pattern::replace_all(std::string_view text, std::string_view by) const {
  TROUPE_ASSIGN_OR_RETURN(const auto found, find_all(text));
  std::string out;
  out.reserve(text.size());
  std::size_t copied = 0;
  for (const Span& span : found) {
    out += text.substr(copied, span.begin - copied);
    out += by;
    copied = span.end;
  }
  out += text.substr(copied);
  return out;
}

}  // namespace troupe::text
