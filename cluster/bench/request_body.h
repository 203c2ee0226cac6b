#pragma once

#include <boost/json/object.hpp>
#include <string>

#include "cluster/bench/workload.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

enum class PromptKind { kTokenIds, kWords };

struct RequestBodyOptions {
  bool chat = false;  // else completions
  PromptKind prompt_kind = PromptKind::kTokenIds;
  std::string model;
  double temperature = 0;
  bool ignore_eos = true;
  boost::json::object extra;  // members that every body gets as well; ours of the same name give way
};

// Writes planned requests as OpenAI request bodies that ask for a stream with its usage. Immutable; thread-safe.
class RequestBody {
 public:
  // Errors: token ids in a chat; an `extra` that changes `stream` or `stream_options`, on which measuring depends.
  static Result<RequestBody> make(RequestBodyOptions options);

  std::string write(const PlannedRequest& request) const;

 private:
  explicit RequestBody(RequestBodyOptions options);

  RequestBodyOptions options_;
  std::string constant_;  // the body's members that are the same in all, without the last brace
};

}  // namespace troupe::cluster
