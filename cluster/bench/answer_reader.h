#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/bench/request_record.h"
#include "cluster/http/http_connections.h"
#include "runtime/base/limits.h"

namespace troupe::cluster {

// Makes the record of one request from the events of its answer, as they come. A plain value; time is an argument.
//
// First token: the first piece with text, or the first event with a choice if the server streams no text for it. Tokens
// are counted by the usage chunk, or else by the pieces.
class AnswerReader {
 public:
  AnswerReader(bool chat, double sent_s, double late_s, std::uint32_t prompt_tokens, std::uint32_t max_tokens,
               const Limits& limits);

  // Takes one event; false = nothing after it counts.
  bool add(std::string_view data, double now_s);

  // The record, after the request ended this way. Call once.
  RequestRecord finish(const HttpOutcome& outcome, double now_s);

 private:
  void read_choices(const boost::json::value& chunk, double now_s);
  void read_usage(const boost::json::value& chunk);
  bool give_up(RequestResult result, std::string why);
  void fail(RequestResult result, std::string why);

  const bool chat_;
  const std::uint64_t max_pieces_;
  RequestRecord record_;
  std::optional<double> first_event_s_;
  bool done_ = false;
};

}  // namespace troupe::cluster
