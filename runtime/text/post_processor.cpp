#include "runtime/text/post_processor.h"

#include <string>

namespace troupe::text {
namespace {

Result<std::vector<std::uint32_t>> parse_ids(const JsonNode& node, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto elements, node.elements());
  std::vector<std::uint32_t> ids;
  for (const JsonNode& element : elements) {
    TROUPE_ASSIGN_OR_RETURN(const auto id, element.unsigned_integer(limits.tokenizer_entries - 1));
    ids.push_back(static_cast<std::uint32_t>(id));
  }
  return ids;
}

// special_tokens maps the names used in the template to ids.
Result<std::vector<std::uint32_t>> special_token_ids(const JsonNode& processor, const JsonNode& piece,
                                                     const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto name_node, piece.at("id"));
  TROUPE_ASSIGN_OR_RETURN(const auto name, name_node.string());
  TROUPE_ASSIGN_OR_RETURN(const auto map, processor.at("special_tokens"));
  TROUPE_ASSIGN_OR_RETURN(const auto entry, map.at(name));
  TROUPE_ASSIGN_OR_RETURN(const auto ids, entry.at("ids"));
  return parse_ids(ids, limits);
}

Result<PostProcessor> parse_template(const JsonNode& node, const Limits& limits) {
  PostProcessor processor;
  TROUPE_ASSIGN_OR_RETURN(const auto single, node.at("single"));
  TROUPE_ASSIGN_OR_RETURN(const auto pieces, single.elements());
  bool text_seen = false;
  for (const JsonNode& piece : pieces) {
    TROUPE_ASSIGN_OR_RETURN(const auto special, piece.find("SpecialToken"));
    if (special) {
      TROUPE_ASSIGN_OR_RETURN(const auto ids, special_token_ids(node, *special, limits));
      auto& side = text_seen ? processor.after : processor.before;
      side.insert(side.end(), ids.begin(), ids.end());
      continue;
    }
    TROUPE_ASSIGN_OR_RETURN(const auto sequence, piece.at("Sequence"));
    TROUPE_ASSIGN_OR_RETURN(const auto id_node, sequence.at("id"));
    TROUPE_ASSIGN_OR_RETURN(const auto id, id_node.string());
    if (id != "A" || text_seen) return id_node.not_supported("a single text has one sequence, \"A\"");
    text_seen = true;
  }
  if (!text_seen) return single.corrupt("must have the sequence \"A\"");
  return processor;
}

// "sep" and "cls": ["</s>", 2].
Result<PostProcessor> parse_cls_sep(const JsonNode& node, const Limits& limits) {
  const auto id_of = [&](std::string_view key) -> Result<std::uint32_t> {
    TROUPE_ASSIGN_OR_RETURN(const auto pair, node.at(key));
    TROUPE_ASSIGN_OR_RETURN(const auto elements, pair.elements());
    if (elements.size() != 2) return pair.corrupt("must be a token and its id");
    TROUPE_ASSIGN_OR_RETURN(const auto id, elements[1].unsigned_integer(limits.tokenizer_entries - 1));
    return static_cast<std::uint32_t>(id);
  };
  PostProcessor processor;
  TROUPE_ASSIGN_OR_RETURN(const auto cls, id_of("cls"));
  TROUPE_ASSIGN_OR_RETURN(const auto sep, id_of("sep"));
  processor.before = {cls};
  processor.after = {sep};
  return processor;
}

Result<PostProcessor> parse_sequence(const JsonNode& node, const Limits& limits) {
  PostProcessor all;
  TROUPE_ASSIGN_OR_RETURN(const auto list, node.at("processors"));
  TROUPE_ASSIGN_OR_RETURN(const auto elements, list.elements());
  for (const JsonNode& element : elements) {
    TROUPE_ASSIGN_OR_RETURN(const auto next, PostProcessor::parse(element, limits));
    all.before.insert(all.before.begin(), next.before.begin(), next.before.end());
    all.after.insert(all.after.end(), next.after.begin(), next.after.end());
  }
  return all;
}

}  // namespace

Result<PostProcessor> PostProcessor::parse(const JsonNode& node, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto type_node, node.at("type"));
  TROUPE_ASSIGN_OR_RETURN(const auto type, type_node.string());
  if (type == "TemplateProcessing") return parse_template(node, limits);
  if (type == "Sequence") return parse_sequence(node, limits);
  if (type == "ByteLevel") return PostProcessor{};  // trims offsets, which nobody asks for here
  if (type == "RobertaProcessing" || type == "BertProcessing") return parse_cls_sep(node, limits);
  return type_node.not_supported("the post-processor \"" + std::string(type) +
                                 "\" is not supported; the model can be served with token-id prompts");
}

}  // namespace troupe::text
