#include "runtime/base/device.h"

#include <charconv>
#include <optional>

#include "runtime/base/log.h"

namespace troupe {
namespace {

std::optional<std::uint32_t> parse_index(std::string_view text) {
  std::uint32_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || index > kMaxDeviceIndex) return {};
  return index;
}

}  // namespace

std::string Device::to_string() const {
  std::string text = kind == Kind::kCpu ? "cpu:" : "cuda:";
  text += std::to_string(first);
  if (last != first) text += "-" + std::to_string(last);
  return text;
}

Result<Device> parse_device(std::string_view text) {
  const auto error = [text](const std::string& why) {
    return invalid_argument("device '" + printable(text) + "' " + why, "device");
  };
  const std::string forms = "is none of cpu:N, cpu:N-M and cuda:N (N at most " + std::to_string(kMaxDeviceIndex) + ")";
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return error(forms);
  const std::string_view kind = text.substr(0, colon);
  const std::string_view range = text.substr(colon + 1);
  const std::size_t dash = range.find('-');

  Device device;
  if (kind == "cuda") {
    device.kind = Device::Kind::kCuda;
    if (dash != std::string_view::npos) return error("names several GPUs; a shard runs on one: cuda:N");
  } else if (kind != "cpu") {
    return error(forms);
  }
  const auto first = parse_index(range.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : parse_index(range.substr(dash + 1));
  if (!first || !last) return error(forms);
  if (*last < *first) return error("is a range that runs backwards");
  device.first = *first;
  device.last = *last;
  return device;
}

}  // namespace troupe
