#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>

#include "cluster/bench/length_distribution.h"
#include "cluster/bench/trace_formats.h"
#include "cluster/http/json_member.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

Result<std::uint32_t> tokens(const json::value& line, std::string_view key) {
  const json::value* value = json_member(&line, key);
  if (value == nullptr) return invalid_argument(fmt::format("there is no {}", key));
  if (!value->is_int64() || value->get_int64() < 0 || value->get_int64() > std::int64_t{kMaxLengthTokens}) {
    return invalid_argument(fmt::format("{} is not a whole number of 0..{}", key, kMaxLengthTokens));
  }
  return static_cast<std::uint32_t>(value->get_int64());
}

class JsonlTrace : public TraceFormat {
 public:
  Result<std::optional<TraceLine>> read(std::string_view text) override {
    json::error_code error;
    const json::value line = json::parse(text, error);
    if (error || !line.is_object()) {
      return invalid_argument("the line is not a JSON object" + (error ? ": " + error.message() : std::string()));
    }
    const json::value* timestamp = json_member(&line, "timestamp");
    if (timestamp == nullptr) return invalid_argument("there is no timestamp");
    json::error_code no_number;
    const double time_ms = timestamp->to_number<double>(no_number);
    if (no_number || !std::isfinite(time_ms) || time_ms < 0) {
      return invalid_argument("timestamp is not a number of milliseconds >= 0");
    }
    TraceLine request;
    request.time_s = time_ms * 1e-3;
    TROUPE_ASSIGN_OR_RETURN(request.prompt_tokens, tokens(line, "input_length"));
    TROUPE_ASSIGN_OR_RETURN(request.output_tokens, tokens(line, "output_length"));
    TROUPE_RETURN_IF_ERROR(read_blocks(line, request));
    return std::optional(std::move(request));
  }

 private:
  // Either every line has hash_ids, or none.
  Result<void> read_blocks(const json::value& line, TraceLine& request) {
    const json::value* value = json_member(&line, "hash_ids");
    if (!with_blocks_) with_blocks_ = value != nullptr;
    if (*with_blocks_ != (value != nullptr)) {
      return invalid_argument(value ? "the line has hash_ids, the first one has none"
                                    : "there are no hash_ids, but the first line has them");
    }
    if (value == nullptr) return {};
    const json::array* list = value->if_array();
    if (list == nullptr) return invalid_argument("hash_ids is not a list");
    const std::uint32_t needed = (request.prompt_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
    if (list->size() != needed) {
      return invalid_argument(fmt::format("there are {} hash_ids, but a prompt of {} tokens has {} blocks of {}",
                                          list->size(), request.prompt_tokens, needed, kTraceBlockTokens));
    }
    request.blocks.reserve(list->size());
    for (std::size_t i = 0; i < list->size(); ++i) {
      const json::value& id = (*list)[i];
      if (id.is_uint64()) {
        request.blocks.push_back(id.get_uint64());
      } else if (id.is_int64() && id.get_int64() >= 0) {
        request.blocks.push_back(static_cast<std::uint64_t>(id.get_int64()));
      } else {
        return invalid_argument(fmt::format("hash_ids[{}] is not a whole number >= 0", i));
      }
    }
    return {};
  }

  std::optional<bool> with_blocks_;
};

}  // namespace

std::unique_ptr<TraceFormat> jsonl_trace_format() { return std::make_unique<JsonlTrace>(); }

}  // namespace troupe::cluster
