#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "actors/gateway/api_error.h"
#include "actors/gateway/http_server.h"
#include "actors/gateway/request_plan.h"
#include "actors/gateway/served_model.h"
#include "schema/generate.capnp.h"

namespace troupe {

// What became of one choice with a Delta.
enum class ChoiceState {
  kRunning,
  kEnded,    // the scheduler has finished it
  kStopped,  // a stop string was found: the scheduler is to be told
};

// Turns the Deltas of one HTTP request into its response: one JSON object, or server-sent events. Nothing is sent
// before the first Delta, so that a refusal still gets its status. A stream that fails ends with an error event,
// without [DONE], and its connection is cut. Not thread-safe: belongs to the gateway actor.
class ResponseWriter {
 public:
  ResponseWriter(std::shared_ptr<const ServedModel> model, RequestPlan plan, std::string id,
                 std::shared_ptr<HttpResponder> responder);
  ~ResponseWriter();

  // Takes a Delta, other than an error, of choice `index`. REQUIRES: that choice is running.
  ChoiceState accept(std::size_t index, schema::Delta::Reader delta);

  // Answers with an error, or ends the stream with one.
  void fail(const ApiError& error);

  // The response is out, whole or failed.
  bool complete() const { return complete_; }

  std::size_t choices() const;
  std::uint64_t prompt_tokens() const;
  std::uint64_t completion_tokens() const;
  const RequestPlan& plan() const { return plan_; }

 private:
  struct Choice;

  void read_tokens(Choice& choice, schema::Delta::Reader delta);
  void send_chunks(std::size_t index);
  void send_response();
  void end_stream();
  void send_event(const std::string& json);
  std::string envelope(const std::string& choices, const std::string& usage) const;
  std::string usage_json() const;

  const std::shared_ptr<const ServedModel> model_;
  const RequestPlan plan_;
  const std::string id_;
  const std::time_t created_;
  const std::shared_ptr<HttpResponder> responder_;
  std::vector<std::unique_ptr<Choice>> choices_;
  std::size_t running_;
  std::uint64_t cached_tokens_ = 0;  // of all prompts
  std::uint64_t guesses_ = 0;        // of all choices
  std::uint64_t accepted_guesses_ = 0;
  bool streaming_ = false;  // the head of the stream is out
  bool complete_ = false;
};

}  // namespace troupe
