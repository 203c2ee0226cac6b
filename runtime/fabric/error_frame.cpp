#include "runtime/fabric/error_frame.h"

#include <caf/mailbox_element.hpp>

#include <cstring>

namespace troupe::fabric {
namespace {

// Of an error's text that crosses the wire.
constexpr std::size_t kTextBytes = 1024;
constexpr std::size_t kHeadBytes = 9;  // code, category

}  // namespace

void fail_request(const caf::strong_actor_ptr& sender, caf::message_id id, caf::error reason) {
  if (!sender || !id.is_request()) return;
  sender->enqueue(caf::make_mailbox_element(nullptr, id.response_id(), {}, std::move(reason)), nullptr);
}

std::vector<std::byte> encode_error(const caf::error& error) {
  std::uint8_t code = error ? error.code() : 0;
  auto category = static_cast<std::uint64_t>(error ? error.category() : caf::atom(""));
  std::string text;
  if (error && !error.context().empty()) {
    const auto& context = error.context();
    text = context.match_elements<std::string>() ? context.get_as<std::string>(0) : to_string(context);
    text.resize(std::min<std::size_t>(text.size(), kTextBytes));
  }
  std::vector<std::byte> bytes(kHeadBytes + text.size());
  std::memcpy(bytes.data(), &code, 1);
  std::memcpy(bytes.data() + 1, &category, 8);
  if (!text.empty()) std::memcpy(bytes.data() + kHeadBytes, text.data(), text.size());
  return bytes;
}

Result<caf::error> decode_error(std::span<const std::byte> bytes) {
  if (bytes.size() < kHeadBytes || bytes.size() > kHeadBytes + kTextBytes) return corrupt_data("malformed error");
  std::uint8_t code;
  std::uint64_t category;
  std::memcpy(&code, bytes.data(), 1);
  std::memcpy(&category, bytes.data() + 1, 8);
  std::string text(reinterpret_cast<const char*>(bytes.data()) + kHeadBytes, bytes.size() - kHeadBytes);
  auto atom = static_cast<caf::atom_value>(category);
  if (code == 0) return caf::error{};
  if (text.empty()) return caf::error{code, atom};
  return caf::error{code, atom, caf::make_message(std::move(text))};
}

}  // namespace troupe::fabric
