#include "runtime/model/json_walk.h"

#include <boost/json/basic_parser_impl.hpp>

namespace troupe::model {
namespace {

namespace json = boost::json;

// Deepest format that is walked: an index (object of objects of strings), a header (object, object, list).
constexpr std::size_t kMaxDepth = 4;

// Joins the pieces in which basic_parser hands out strings.
class Adapter {
 public:
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);

  explicit Adapter(JsonHandler& handler) : handler_(handler) {}

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code& failure) { return check(handler_.begin_object(), failure); }
  bool on_object_end(std::size_t, json::error_code& failure) { return check(handler_.end_object(), failure); }
  bool on_array_begin(json::error_code& failure) { return check(handler_.begin_array(), failure); }
  bool on_array_end(std::size_t, json::error_code& failure) { return check(handler_.end_array(), failure); }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) { return collect(part); }
  bool on_key(json::string_view part, std::size_t, json::error_code& failure) {
    collect(part);
    const bool good = handler_.key(text_);
    text_.clear();
    return check(good, failure);
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) { return collect(part); }
  bool on_string(json::string_view part, std::size_t, json::error_code& failure) {
    collect(part);
    const bool good = handler_.string(text_);
    text_.clear();
    return check(good, failure);
  }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(std::int64_t number, json::string_view, json::error_code& failure) {
    return check(number < 0 ? handler_.other() : handler_.integer(static_cast<std::uint64_t>(number)), failure);
  }
  bool on_uint64(std::uint64_t number, json::string_view, json::error_code& failure) {
    return check(handler_.integer(number), failure);
  }
  bool on_double(double, json::string_view, json::error_code& failure) { return check(handler_.other(), failure); }
  bool on_bool(bool, json::error_code& failure) { return check(handler_.other(), failure); }
  bool on_null(json::error_code& failure) { return check(handler_.other(), failure); }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  bool collect(json::string_view part) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool check(bool good, json::error_code& failure) {
    if (!good) failure = json::error::syntax;
    return good;
  }

  JsonHandler& handler_;
  std::string text_;
};

}  // namespace

Result<void> walk_json(std::string_view text, std::uint64_t text_offset, const std::string& place,
                       JsonHandler& handler) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<Adapter> parser(options, handler);
  json::error_code failure;
  const std::size_t consumed = parser.write_some(false, text.data(), text.size(), failure);
  if (!failure && consumed != text.size()) failure = json::error::extra_data;
  if (!failure) return {};
  const std::string why = handler.reason().empty() ? "not valid JSON: " + failure.message() : handler.reason();
  return corrupt_data(place + ": byte " + std::to_string(text_offset + consumed) + ": " + why);
}

}  // namespace troupe::model
