#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/text/tokenizer.h"

namespace troupe::text {

// A byte-level tokenizer: ids 0 to 255 are the bytes, then come " t", "he", " the", "ll", "hell", "hello" and the
// special tokens <|im_start|> and <|im_end|>.
// `added_tokens` is appended to the list of added tokens.
std::string byte_level_json(std::string_view normalizer = "null", std::string_view added_tokens = "");

// A SentencePiece-style one: <unk>, <s>, </s>, the 256 byte tokens, then characters and merges of "▁hello" and "▁the".
// Texts begin with <s> when special tokens are added.
std::string sentencepiece_json(bool byte_fallback = true, bool fuse_unk = true);

// REQUIRES: `json` is a tokenizer that loads.
std::shared_ptr<const Tokenizer> load_or_fail(std::string_view json);

}  // namespace troupe::text
