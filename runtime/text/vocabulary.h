#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::text {

// A tokenizer as the metadata of a GGUF file describe it (keys "tokenizer.ggml.*"), where nothing has been checked
// yet. Tokenizer::build makes a tokenizer of it. The views outlive the object.
struct Vocabulary {
  // What llama.cpp numbers the kinds of tokens.
  enum TokenType : std::int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

  std::string origin;                    // the file, for errors
  std::string_view model;                // "llama": SentencePiece with scores; "gpt2": byte-level with merges
  std::string_view pre;                  // of "gpt2": which pattern cuts a text into words; may be empty
  std::vector<std::string_view> tokens;  // by id
  std::vector<std::int64_t> types;       // TokenType by id; empty when the file has none
  std::vector<float> scores;             // by id; empty when the file has none
  std::vector<std::string_view> merges;  // by rank
  std::optional<std::uint64_t> bos;
  std::optional<std::uint64_t> eos;
  std::optional<std::uint64_t> unknown;
  std::optional<bool> add_bos;  // around every text; the default depends on the model
  std::optional<bool> add_eos;
  std::optional<bool> add_space_prefix;  // of "llama": before a text, and after every special token
};

}  // namespace troupe::text
