#pragma once

#include <span>
#include <string>
#include <string_view>

namespace troupe::text {

// How llama.cpp cuts a text into words for a byte-level tokenizer, by its name for it ("tokenizer.ggml.pre").
struct WordPatterns {
  std::span<const std::string_view> patterns;  // applied in turn, each to what the one before left whole
  bool ignore_merges = false;                  // a word that is a token becomes that token
  bool add_bos = false;                        // unless the file says otherwise
};

// The one of that name, which may be empty; null for a name that is not known.
const WordPatterns* word_patterns(std::string_view name);

// All names, for errors: "default, gpt-2, ...".
std::string word_pattern_names();

}  // namespace troupe::text
