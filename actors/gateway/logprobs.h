#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <vector>

#include "actors/gateway/served_model.h"
#include "schema/generate.capnp.h"

namespace troupe {

// The "logprobs" member of one choice or chunk, in the two spellings of the API. Collects tokens, then gives them out
// and begins anew; text offsets go on over all chunks of a choice. Not thread-safe.
class ChatLogprobs {
 public:
  void add(const ServedModel& model, schema::TokenLogprobs::Reader token);
  // {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}], "refusal": null}
  boost::json::object take();

 private:
  boost::json::array content_;
};

class CompletionLogprobs {
 public:
  // A token of the prompt that has no log-probability, because nothing comes before it.
  void add_first(const ServedModel& model, std::uint32_t token);
  void add(const ServedModel& model, schema::TokenLogprobs::Reader token);
  // {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; offsets count characters of the choice's text.
  boost::json::object take();

 private:
  void add_token(const ServedModel& model, std::uint32_t token);

  boost::json::array tokens_;
  boost::json::array token_logprobs_;
  boost::json::array top_logprobs_;
  boost::json::array text_offset_;
  std::size_t offset_characters_ = 0;
};

}  // namespace troupe
