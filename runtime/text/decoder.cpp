#include "runtime/text/decoder.h"

#include <optional>

#include "runtime/text/byte_level.h"
#include "runtime/text/metaspace.h"
#include "runtime/text/pattern.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

// A stage that looks at a token as a whole.
class WholeTokens : public TokenSink {
 public:
  explicit WholeTokens(TokenSink& next) : next_(next) {}

  void text(std::string_view fragment) override { token_ += fragment; }
  void end_token() override { take(std::exchange(token_, {})); }
  void finish() override { next_.finish(); }

 protected:
  virtual void take(std::string token) = 0;

  void pass(std::string_view token) {
    next_.text(token);
    next_.end_token();
  }

  TokenSink& next_;

 private:
  std::string token_;
};

// Joins all tokens into one text with spaces between them.
class JoinWithSpaces final : public DecoderStep {
 public:
  std::unique_ptr<TokenSink> open(TokenSink& next) const override { return std::make_unique<Run>(next); }
  void rewrite_token(std::string&) const override {}

 private:
  class Run final : public WholeTokens {
   public:
    using WholeTokens::WholeTokens;

   private:
    void take(std::string token) override {
      pass(first_ ? token : " " + token);
      first_ = false;
    }

    bool first_ = true;
  };
};

class ByteLevel final : public DecoderStep {
 public:
  std::unique_ptr<TokenSink> open(TokenSink& next) const override { return std::make_unique<Run>(next); }
  void rewrite_token(std::string& token) const override { token = bytes_of(token); }

 private:
  // A token with characters outside the alphabet, such as an added one, stands for its own bytes.
  static std::string bytes_of(const std::string& token) { return from_byte_level(token).value_or(token); }

  // Makes one token of the bytes of all.
  class Run final : public WholeTokens {
   public:
    using WholeTokens::WholeTokens;

    void finish() override {
      if (!partial_.empty()) next_.text(kReplacementCharacter);
      next_.end_token();
      next_.finish();
    }

   private:
    void take(std::string token) override {
      partial_ += bytes_of(token);
      std::string certain;
      const std::size_t left = append_lossy(certain, partial_);
      partial_.erase(0, partial_.size() - left);
      next_.text(certain);
    }

    std::string partial_;  // the beginning of a character
  };
};

// Turns runs of tokens <0xNN> into characters. A run that is not UTF-8 becomes one U+FFFD per token, so that none of
// it is certain before it ends.
class ByteFallback final : public DecoderStep {
 public:
  std::unique_ptr<TokenSink> open(TokenSink& next) const override { return std::make_unique<Run>(next); }
  void rewrite_token(std::string& token) const override {
    if (const auto byte = byte_of(token)) token.assign(1, *byte);
  }

 private:
  static std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                    : -1;
    };
    const int high = digit(token[3]);
    const int low = digit(token[4]);
    if (high < 0 || low < 0) return std::nullopt;
    return static_cast<char>(high << 4 | low);
  }

  class Run final : public WholeTokens {
   public:
    using WholeTokens::WholeTokens;

    void finish() override {
      flush();
      next_.finish();
    }

   private:
    void take(std::string token) override {
      if (const auto byte = byte_of(token)) {
        bytes_ += *byte;
      } else {
        flush();
        pass(token);
      }
    }

    void flush() {
      if (bytes_.empty()) return;
      if (!invalid_utf8_offset(bytes_)) {
        pass(bytes_);
      } else {
        for (std::size_t i = 0; i < bytes_.size(); ++i) pass(kReplacementCharacter);
      }
      bytes_.clear();
    }

    std::string bytes_;
  };
};

class Replace final : public DecoderStep {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  std::unique_ptr<TokenSink> open(TokenSink& next) const override { return std::make_unique<Run>(*this, next); }

  // A pattern that backtracks without end on this token leaves it as it is: a model's answer has no better text.
  void rewrite_token(std::string& token) const override {
    if (auto replaced = pattern_.replace_all(token, content_)) token = std::move(replaced).value();
  }

 private:
  class Run final : public WholeTokens {
   public:
    Run(const Replace& step, TokenSink& next) : WholeTokens(next), step_(step) {}

   private:
    void take(std::string token) override {
      step_.rewrite_token(token);
      pass(token);
    }

    const Replace& step_;
  };

  Pattern pattern_;
  std::string content_;
};

// Makes one token of all.
class Fuse final : public DecoderStep {
 public:
  std::unique_ptr<TokenSink> open(TokenSink& next) const override { return std::make_unique<Run>(next); }
  void rewrite_token(std::string&) const override {}

 private:
  class Run final : public TokenSink {
   public:
    explicit Run(TokenSink& next) : next_(next) {}

    void text(std::string_view fragment) override { next_.text(fragment); }
    void end_token() override {}
    void finish() override {
      next_.end_token();
      next_.finish();
    }

   private:
    TokenSink& next_;
  };
};

// Removes up to `start` characters `content` from the front of each token and up to `stop` from its back.
class Strip final : public DecoderStep {
 public:
  Strip(std::string content, std::size_t start, std::size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}

  std::unique_ptr<TokenSink> open(TokenSink& next) const override { return std::make_unique<Run>(*this, next); }
  // In the middle of a text there is nothing to strip: the step stands behind Fuse.
  void rewrite_token(std::string&) const override {}

 private:
  class Run final : public TokenSink {
   public:
    Run(const Strip& step, TokenSink& next) : step_(step), next_(next) {}

    void text(std::string_view fragment) override {
      std::string out;
      for (std::size_t at = 0; at < fragment.size();) {
        const std::size_t bytes = character_at(fragment, at).bytes;
        take(fragment.substr(at, bytes), out);
        at += bytes;
      }
      next_.text(out);
    }

    void end_token() override {
      at_front_ = true;
      stripped_ = 0;
      held_ = 0;
      next_.end_token();
    }

    void finish() override { next_.finish(); }

   private:
    void take(std::string_view character, std::string& out) {
      const bool strippable = character == step_.content_;
      if (at_front_ && strippable && stripped_ < step_.start_) {
        ++stripped_;
        return;
      }
      at_front_ = false;
      if (strippable && step_.stop_ > 0) {
        // The last `stop` of a run may be the end of the token; what is further in front is not.
        if (held_ < step_.stop_) {
          ++held_;
        } else {
          out += character;
        }
        return;
      }
      for (; held_ > 0; --held_) out += step_.content_;
      out += character;
    }

    const Strip& step_;
    TokenSink& next_;
    bool at_front_ = true;
    std::size_t stripped_ = 0;
    std::size_t held_ = 0;  // characters `content` that stay if another character follows
  };

  std::string content_;  // one character
  std::size_t start_;
  std::size_t stop_;
};

class MetaspaceToSpaces final : public DecoderStep {
 public:
  explicit MetaspaceToSpaces(Metaspace options) : options_(std::move(options)) {}

  std::unique_ptr<TokenSink> open(TokenSink& next) const override { return std::make_unique<Run>(*this, next); }
  void rewrite_token(std::string& token) const override { token = with_spaces(token, " "); }

 private:
  std::string with_spaces(std::string_view token, std::string_view space) const {
    std::string out;
    for (std::size_t at = 0; at < token.size();) {
      const std::size_t bytes = character_at(token, at).bytes;
      const std::string_view character = token.substr(at, bytes);
      out += character == options_.replacement ? space : character;
      at += bytes;
    }
    return out;
  }

  class Run final : public WholeTokens {
   public:
    Run(const MetaspaceToSpaces& step, TokenSink& next) : WholeTokens(next), step_(step) {}

   private:
    void take(std::string token) override {
      const bool drop = first_ && step_.options_.prepend != Metaspace::Prepend::kNever;
      first_ = false;
      pass(step_.with_spaces(token, drop ? "" : " "));
    }

    const MetaspaceToSpaces& step_;
    bool first_ = true;
  };

  Metaspace options_;
};

using Steps = std::vector<std::unique_ptr<const DecoderStep>>;

constexpr std::uint64_t kMaxStripped = 1024;

Result<void> parse_replace(const JsonNode& node, Steps& steps) {
  TROUPE_ASSIGN_OR_RETURN(const auto pattern_node, node.at("pattern"));
  TROUPE_ASSIGN_OR_RETURN(auto pattern, Pattern::parse(pattern_node));
  TROUPE_ASSIGN_OR_RETURN(const auto content, node.at("content"));
  TROUPE_ASSIGN_OR_RETURN(const auto text, content.string());
  steps.push_back(std::make_unique<Replace>(std::move(pattern), std::string(text)));
  return {};
}

Result<void> parse_strip(const JsonNode& node, Steps& steps) {
  TROUPE_ASSIGN_OR_RETURN(const auto content_node, node.at("content"));
  TROUPE_ASSIGN_OR_RETURN(const auto content, content_node.string());
  if (content.empty() || character_at(content, 0).bytes != content.size()) {
    return content_node.corrupt("must be one character");
  }
  TROUPE_ASSIGN_OR_RETURN(const auto start_node, node.at("start"));
  TROUPE_ASSIGN_OR_RETURN(const auto start, start_node.unsigned_integer(kMaxStripped));
  TROUPE_ASSIGN_OR_RETURN(const auto stop_node, node.at("stop"));
  TROUPE_ASSIGN_OR_RETURN(const auto stop, stop_node.unsigned_integer(kMaxStripped));
  steps.push_back(std::make_unique<Strip>(std::string(content), start, stop));
  return {};
}

Result<void> parse_steps(const JsonNode& node, Steps& steps) {
  TROUPE_ASSIGN_OR_RETURN(const auto type_node, node.at("type"));
  TROUPE_ASSIGN_OR_RETURN(const auto type, type_node.string());
  if (type == "Replace") return parse_replace(node, steps);
  if (type == "Strip") return parse_strip(node, steps);
  if (type == "Sequence") {
    TROUPE_ASSIGN_OR_RETURN(const auto list, node.at("decoders"));
    TROUPE_ASSIGN_OR_RETURN(const auto elements, list.elements());
    for (const JsonNode& element : elements) TROUPE_RETURN_IF_ERROR(parse_steps(element, steps));
  } else if (type == "ByteLevel") {
    steps.push_back(std::make_unique<ByteLevel>());
  } else if (type == "ByteFallback") {
    steps.push_back(std::make_unique<ByteFallback>());
  } else if (type == "Fuse") {
    steps.push_back(std::make_unique<Fuse>());
  } else if (type == "Metaspace") {
    TROUPE_ASSIGN_OR_RETURN(auto options, Metaspace::parse(node));
    steps.push_back(std::make_unique<MetaspaceToSpaces>(std::move(options)));
  } else {
    return type_node.not_supported("the decoder \"" + std::string(type) + "\" is not supported");
  }
  return {};
}

}  // namespace

Decoder::Decoder() { steps_.push_back(std::make_unique<JoinWithSpaces>()); }

Result<Decoder> Decoder::parse(const JsonNode& node) {
  Decoder decoder;
  decoder.steps_.clear();
  TROUPE_RETURN_IF_ERROR(parse_steps(node, decoder.steps_));
  return decoder;
}

std::string Decoder::token_bytes(std::string token) const {
  for (const auto& step : steps_) {
    step->rewrite_token(token);
    if (invalid_utf8_offset(token)) break;  // a part of a character is in its final form
  }
  return token;
}

class Decoding::Output final : public TokenSink {
 public:
  void text(std::string_view fragment) override { text_ += fragment; }
  void end_token() override {}
  void finish() override {}

  std::string take() { return std::exchange(text_, {}); }

 private:
  std::string text_;
};

Decoding::Decoding(const Decoder& decoder) : output_(std::make_unique<Output>()) {
  TokenSink* next = output_.get();
  for (auto step = decoder.steps_.rbegin(); step != decoder.steps_.rend(); ++step) {
    stages_.push_back((*step)->open(*next));
    next = stages_.back().get();
  }
}

Decoding::~Decoding() = default;

std::string Decoding::push(std::string_view token) {
  TokenSink& first = stages_.empty() ? *output_ : *stages_.back();
  first.text(token);
  first.end_token();
  return output_->take();
}

std::string Decoding::finish() {
  TokenSink& first = stages_.empty() ? *output_ : *stages_.back();
  first.finish();
  return output_->take();
}

}  // namespace troupe::text
