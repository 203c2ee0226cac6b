#pragma once

#include <memory>

#include "runtime/text/added_tokens.h"
#include "runtime/text/decoder.h"
#include "runtime/text/normalizer.h"
#include "runtime/text/post_processor.h"
#include "runtime/text/pre_tokenizer.h"
#include "runtime/text/token_model.h"
#include "runtime/text/tokenizer.h"

namespace troupe::text {

// What a tokenizer is made of, in the order in which a text passes through it. Immutable once loaded.
struct Tokenizer::Parts {
  explicit Parts(std::unique_ptr<const TokenModel> model) : model(std::move(model)) {}

  AddedTokens added_tokens;
  std::unique_ptr<const Normalizer> normalizer;       // may be null
  std::unique_ptr<const PreTokenizer> pre_tokenizer;  // may be null
  std::unique_ptr<const TokenModel> model;
  PostProcessor post_processor;
  Decoder decoder;

  // Spelling of a token; nullptr when it does not exist, or is special and those are to be skipped.
  const std::string* spelling(std::uint32_t id, bool skip_special_tokens) const {
    const AddedToken* added = added_tokens.find(id);
    const std::string* text = added ? &added->content : model->token_of(id);
    return skip_special_tokens && added && added->special ? nullptr : text;
  }

  // Appends the tokens of a normalised text without special tokens.
  Result<void> encode_normalized(const NormalizedText& normalized, std::vector<std::uint32_t>& tokens) const;
};

}  // namespace troupe::text
