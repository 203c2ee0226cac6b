#include "runtime/model/text_file.h"

#include <fstream>
#include <system_error>

namespace troupe::model {

Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes, std::string_view limit) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status)) return not_found(path.string() + ": no such file");
  if (!std::filesystem::is_regular_file(status)) return invalid_argument(path.string() + ": not a regular file");
  const std::uint64_t bytes = std::filesystem::file_size(path, failure);
  if (failure) return unavailable(path.string() + ": " + failure.message());
  if (bytes > max_bytes) {
    return resource_exhausted(path.string() + ": " + std::to_string(bytes) + " bytes long; at most " +
                                  std::to_string(max_bytes) + " are allowed (limit " + std::string(limit) + ")",
                              std::string(limit));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return not_found(path.string() + ": cannot be opened");
  std::string text(bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(bytes));
  if (static_cast<std::uint64_t>(file.gcount()) != bytes) return unavailable(path.string() + ": cannot be read");
  return text;
}

}  // namespace troupe::model
