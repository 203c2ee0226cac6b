#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace troupe {

// The kinds of operating errors; same list and order as schema/error.capnp.
enum class ErrorCode {
  kInvalidArgument,  // the asker's mistake; asking again changes nothing
  kNotFound,
  kUnavailable,  // a member is away; asking again later may succeed
  kDeadlineExceeded,
  kResourceExhausted,  // a named limit was reached
  kCorruptData,        // a file or frame that is not what it says
  kUnsupported,
  kCancelled,
  kInternal,
};

std::string_view to_string(ErrorCode code);

// An operating error. `message` names what and where (file, offset, key, peer) and what to do about it.
// `param` names the request parameter or configuration key at fault, or is empty.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string param;
  std::uint32_t retry_after_ms = 0;  // when to ask again, if that is known

  // The same error seen from further out: "context: message".
  Error within(std::string_view context) &&;
};

Error invalid_argument(std::string message, std::string param = {});
Error not_found(std::string message);
Error unavailable(std::string message);
Error deadline_exceeded(std::string message, std::string param = {});
Error resource_exhausted(std::string message, std::string param = {});
Error corrupt_data(std::string message);
Error unsupported(std::string message, std::string param = {});
Error cancelled(std::string message);
Error internal_error(std::string message);

// A value or an Error. Bugs are assertions; whatever the outside world can cause is a Result.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // REQUIRES: ok()
  T& value() & { return *std::get_if<0>(&state_); }
  const T& value() const& { return *std::get_if<0>(&state_); }
  T&& value() && { return std::move(*std::get_if<0>(&state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // REQUIRES: !ok()
  const Error& error() const& { return *std::get_if<1>(&state_); }
  Error&& error() && { return std::move(*std::get_if<1>(&state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }

  // REQUIRES: !ok()
  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace troupe

#define TROUPE_CONCAT_INNER(a, b) a##b
#define TROUPE_CONCAT(a, b) TROUPE_CONCAT_INNER(a, b)

// Returns the error of a Result<void>-like expression to the caller, if there is one.
#define TROUPE_RETURN_IF_ERROR(expression)                                                               \
  do {                                                                                                   \
    if (auto troupe_result = (expression); !troupe_result.ok()) return std::move(troupe_result).error(); \
  } while (false)

// TROUPE_ASSIGN_OR_RETURN(auto file, open(path)): declares or assigns the value, or returns the error.
#define TROUPE_ASSIGN_OR_RETURN(target, expression) \
  TROUPE_ASSIGN_OR_RETURN_INNER(TROUPE_CONCAT(troupe_result_, __LINE__), target, expression)
#define TROUPE_ASSIGN_OR_RETURN_INNER(result, target, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) return std::move(result).error();             \
  target = std::move(result).value()
