#include "runtime/text/pre_tokenizer.h"

#include "runtime/text/byte_level.h"
#include "runtime/text/metaspace.h"
#include "runtime/text/pattern.h"
#include "runtime/text/split_behavior.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

std::string_view piece_text(const Pieces& pieces, const Span& span) {
  return std::string_view(pieces.text).substr(span.begin, span.size());
}

// Cuts each piece further: `cut(piece text)` returns spans relative to the piece.
template <class Cut>
Result<void> cut_pieces(Pieces& pieces, Cut cut) {
  std::vector<Span> spans;
  spans.reserve(pieces.spans.size());
  for (const Span& piece : pieces.spans) {
    TROUPE_ASSIGN_OR_RETURN(const std::vector<Span> parts, cut(piece_text(pieces, piece)));
    for (const Span& part : parts) spans.push_back({piece.begin + part.begin, piece.begin + part.end});
  }
  pieces.spans = std::move(spans);
  return {};
}

// Writes each piece anew: `rewrite(piece text, is the beginning of the input)`.
template <class Rewrite>
void rewrite_pieces(Pieces& pieces, Rewrite rewrite) {
  std::string text;
  text.reserve(pieces.text.size() + pieces.spans.size());
  const bool first_at_start = pieces.at_start && !pieces.spans.empty() && pieces.spans.front().begin == 0;
  for (Span& piece : pieces.spans) {
    const std::size_t begin = text.size();
    text += rewrite(piece_text(pieces, piece), first_at_start && begin == 0);
    piece = {begin, text.size()};
  }
  pieces.text = std::move(text);
  pieces.at_start = first_at_start;
}

// Splits at the characters for which `is_delimiter` holds, each a delimiter of its own.
class SplitAtCharacters final : public PreTokenizer {
 public:
  using Predicate = bool (*)(char32_t);

  SplitAtCharacters(Predicate is_delimiter, SplitBehavior behavior)
      : is_delimiter_(is_delimiter), behavior_(behavior) {}

  Result<void> apply(Pieces& pieces) const override {
    return cut_pieces(pieces, [this](std::string_view text) -> Result<std::vector<Span>> {
      std::vector<Span> delimiters;
      for (std::size_t at = 0; at < text.size();) {
        const Character character = character_at(text, at);
        if (is_delimiter_(character.code_point)) delimiters.push_back({at, at + character.bytes});
        at += character.bytes;
      }
      return split_at(text.size(), delimiters, behavior_, false);
    });
  }

 private:
  Predicate is_delimiter_;
  SplitBehavior behavior_;
};

class SplitAtPattern final : public PreTokenizer {
 public:
  SplitAtPattern(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  Result<void> apply(Pieces& pieces) const override {
    return cut_pieces(pieces, [this](std::string_view text) -> Result<std::vector<Span>> {
      TROUPE_ASSIGN_OR_RETURN(const auto delimiters, pattern_.find_all(text));
      return split_at(text.size(), delimiters, behavior_, invert_);
    });
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Runs of word characters, and runs of what is neither word nor space.
class Words final : public PreTokenizer {
 public:
  Result<void> apply(Pieces& pieces) const override {
    return cut_pieces(pieces, [](std::string_view text) -> Result<std::vector<Span>> {
      std::vector<Span> words;
      enum class Kind { kSpace, kWord, kOther } last = Kind::kSpace;
      for (std::size_t at = 0; at < text.size();) {
        const Character c = character_at(text, at);
        const Kind kind = is_word(c.code_point)         ? Kind::kWord
                          : is_whitespace(c.code_point) ? Kind::kSpace
                                                        : Kind::kOther;
        if (kind != Kind::kSpace && kind == last) {
          words.back().end = at + c.bytes;
        } else if (kind != Kind::kSpace) {
          words.push_back({at, at + c.bytes});
        }
        last = kind;
        at += c.bytes;
      }
      return words;
    });
  }
};

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::optional<Regex> words)
      : add_prefix_space_(add_prefix_space), words_(std::move(words)) {}

  Result<void> apply(Pieces& pieces) const override {
    if (add_prefix_space_) {
      rewrite_pieces(pieces, [](std::string_view text, bool) {
        return text.starts_with(' ') ? std::string(text) : " " + std::string(text);
      });
    }
    if (words_) {
      TROUPE_RETURN_IF_ERROR(cut_pieces(pieces, [this](std::string_view text) -> Result<std::vector<Span>> {
        TROUPE_ASSIGN_OR_RETURN(const auto words, words_->find_all(text));
        return split_at(text.size(), words, SplitBehavior::kIsolated, false);
      }));
    }
    rewrite_pieces(pieces, [](std::string_view text, bool) { return to_byte_level(text); });
    return {};
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> words_;
};

class SplitAtMetaspace final : public PreTokenizer {
 public:
  explicit SplitAtMetaspace(Metaspace options) : options_(std::move(options)) {}

  Result<void> apply(Pieces& pieces) const override {
    rewrite_pieces(pieces, [this](std::string_view text, bool at_start) { return mark_spaces(text, at_start); });
    if (!options_.split) return {};
    const std::string& mark = options_.replacement;
    return cut_pieces(pieces, [&mark](std::string_view text) -> Result<std::vector<Span>> {
      std::vector<Span> delimiters;
      for (auto at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + mark.size())) {
        delimiters.push_back({at, at + mark.size()});
      }
      return split_at(text.size(), delimiters, SplitBehavior::kMergedWithNext, false);
    });
  }

 private:
  std::string mark_spaces(std::string_view text, bool at_start) const {
    const bool wanted =
        options_.prepend == Metaspace::Prepend::kAlways || (options_.prepend == Metaspace::Prepend::kFirst && at_start);
    std::string out;
    if (wanted && !text.starts_with(' ') && !text.starts_with(options_.replacement)) out = options_.replacement;
    for (const char c : text) {
      if (c == ' ') {
        out += options_.replacement;
      } else {
        out += c;
      }
    }
    return out;
  }

  Metaspace options_;
};

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<const PreTokenizer>> steps) : steps_(std::move(steps)) {}

  Result<void> apply(Pieces& pieces) const override {
    for (const auto& step : steps_) TROUPE_RETURN_IF_ERROR(step->apply(pieces));
    return {};
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

using Parsed = Result<std::unique_ptr<const PreTokenizer>>;

template <class T, class... Arguments>
Parsed make(Arguments&&... arguments) {
  return std::unique_ptr<const PreTokenizer>(std::make_unique<T>(std::forward<Arguments>(arguments)...));
}

Parsed parse_sequence(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto list, node.at("pretokenizers"));
  TROUPE_ASSIGN_OR_RETURN(const auto elements, list.elements());
  std::vector<std::unique_ptr<const PreTokenizer>> steps;
  for (const JsonNode& element : elements) {
    TROUPE_ASSIGN_OR_RETURN(auto step, parse_pre_tokenizer(element));
    steps.push_back(std::move(step));
  }
  return make<Sequence>(std::move(steps));
}

Parsed parse_byte_level(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const bool add_prefix_space, node.boolean_or("add_prefix_space", true));
  TROUPE_ASSIGN_OR_RETURN(const bool use_regex, node.boolean_or("use_regex", true));
  std::optional<Regex> words;
  if (use_regex) {
    // GPT-2's words (Radford et al. 2019, encoder.py).
    TROUPE_ASSIGN_OR_RETURN(
        words, Regex::compile(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"));
  }
  return make<ByteLevel>(add_prefix_space, std::move(words));
}

Parsed parse_split(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto pattern_node, node.at("pattern"));
  TROUPE_ASSIGN_OR_RETURN(auto pattern, Pattern::parse(pattern_node));
  TROUPE_ASSIGN_OR_RETURN(const auto behavior_node, node.at("behavior"));
  TROUPE_ASSIGN_OR_RETURN(const auto behavior, parse_split_behavior(behavior_node));
  TROUPE_ASSIGN_OR_RETURN(const bool invert, node.boolean_or("invert", false));
  return make<SplitAtPattern>(std::move(pattern), behavior, invert);
}

Parsed parse_punctuation(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto behavior_node, node.find("behavior"));
  SplitBehavior behavior = SplitBehavior::kIsolated;
  if (behavior_node) {
    TROUPE_ASSIGN_OR_RETURN(behavior, parse_split_behavior(*behavior_node));
  }
  return make<SplitAtCharacters>(is_punctuation, behavior);
}

}  // namespace

Parsed byte_level_words(std::span<const std::string_view> patterns) {
  std::vector<std::unique_ptr<const PreTokenizer>> steps;
  for (const std::string_view source : patterns) {
    TROUPE_ASSIGN_OR_RETURN(Regex regex, Regex::compile(source));
    steps.push_back(std::make_unique<SplitAtPattern>(Pattern(std::move(regex)), SplitBehavior::kIsolated, false));
  }
  steps.push_back(std::make_unique<ByteLevel>(false, std::nullopt));
  return make<Sequence>(std::move(steps));
}

Parsed parse_pre_tokenizer(const JsonNode& node) {
  TROUPE_ASSIGN_OR_RETURN(const auto type_node, node.at("type"));
  TROUPE_ASSIGN_OR_RETURN(const auto type, type_node.string());
  if (type == "Sequence") return parse_sequence(node);
  if (type == "ByteLevel") return parse_byte_level(node);
  if (type == "Split") return parse_split(node);
  if (type == "Metaspace") {
    TROUPE_ASSIGN_OR_RETURN(auto options, Metaspace::parse(node));
    return make<SplitAtMetaspace>(std::move(options));
  }
  if (type == "Punctuation") return parse_punctuation(node);
  if (type == "Whitespace") return make<Words>();
  if (type == "WhitespaceSplit") return make<SplitAtCharacters>(is_whitespace, SplitBehavior::kRemoved);
  if (type == "Digits") {
    TROUPE_ASSIGN_OR_RETURN(const bool individual, node.boolean_or("individual_digits", false));
    return make<SplitAtCharacters>(is_numeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  return type_node.not_supported("the pre-tokeniser \"" + std::string(type) +
                                 "\" is not supported; the model can be served with token-id prompts");
}

}  // namespace troupe::text
