#include "runtime/text/metaspace.h"

#include "runtime/text/utf8.h"

namespace troupe::text {

Result<Metaspace> Metaspace::parse(const JsonNode& node) {
  Metaspace options;
  TROUPE_ASSIGN_OR_RETURN(options.replacement, node.string_or("replacement", options.replacement));
  if (options.replacement.empty() || character_at(options.replacement, 0).bytes != options.replacement.size()) {
    return node.corrupt("\"replacement\" must be one character");
  }
  TROUPE_ASSIGN_OR_RETURN(const std::string scheme, node.string_or("prepend_scheme", "always"));
  if (scheme == "first") {
    options.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    options.prepend = Prepend::kNever;
  } else if (scheme != "always") {
    return node.not_supported("\"prepend_scheme\" must be always, first or never");
  }
  // The older spelling of the same choice.
  TROUPE_ASSIGN_OR_RETURN(const bool add_prefix_space, node.boolean_or("add_prefix_space", true));
  if (!add_prefix_space) options.prepend = Prepend::kNever;
  TROUPE_ASSIGN_OR_RETURN(options.split, node.boolean_or("split", true));
  return options;
}

}  // namespace troupe::text
