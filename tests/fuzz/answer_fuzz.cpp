// Any bytes as the event stream of an answer: no crash, no hang, no growth; and an answer that counts has a token.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "cluster/bench/answer_reader.h"
#include "cluster/http/sse_parser.h"

using namespace troupe::cluster;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  for (const bool chat : {false, true}) {
    SseParser parser;
    AnswerReader reader(chat, 0, 0, 5, 5, {});
    double now_s = 0;
    HttpOutcome outcome;
    outcome.answer.status = 200;
    const auto more = parser.add({reinterpret_cast<const char*>(data), size},
                                 [&](std::string_view event) { return reader.add(event, now_s += 0.5); });
    if (!more.ok()) outcome.ending = HttpEnding::kMalformed;
    const RequestRecord record = reader.finish(outcome, now_s);
    if (record.result != RequestResult::kAnswered) continue;
    if (record.output_tokens == 0 || record.pieces_s.empty() || record.ttft_s() < 0 || !record.error.empty())
      std::abort();
  }
  return 0;
}
