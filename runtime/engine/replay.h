#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "runtime/engine/engine.h"
#include "schema/record.capnp.h"

namespace troupe::engine {

// One entry of a record, gone through again.
struct ReplayEvent {
  std::uint64_t offset = 0;  // in the file, bytes
  std::uint64_t time_ns = 0;
  std::string kind;  // "admit", "step", ...: the entry's name in schema/record.capnp
  std::string text;  // one line for people
  bool same = true;  // the engine decided as it did then
  bool is_step = false;
};

// Goes through a record (schema/record.capnp) with an engine of its own. Used by one thread.
class Replay {
 public:
  // Errors: no header, one of another version or with values that no engine has.
  static Result<std::unique_ptr<Replay>> open(std::span<const std::byte> file);

  // The next entry; nothing at the end of the file, or before a last message that is cut off. Errors name the offset:
  // not a record, a message without end, time that goes back. After an error, and after an event that is not the
  // same, there is nothing more to be had.
  Result<std::optional<ReplayEvent>> next();

  std::uint64_t begin_ns() const { return begin_ns_; }  // when the record begins
  // Bytes of a last message that is cut off.
  std::size_t left_over_bytes() const { return file_.size() - offset_; }
  const Engine& engine() const { return *engine_; }

 private:
  explicit Replay(std::span<const std::byte> file) : file_(file) {}

  // Its whole length in bytes; 0 when the rest of the file does not hold all of it.
  Result<std::size_t> message_bytes() const;
  Result<void> start(schema::RecordEntry::Reader entry);
  ReplayEvent apply(schema::RecordEntry::Reader entry);
  void replay_step(schema::RecordEntry::Step::Reader formed, std::uint64_t now_ns, ReplayEvent& event);
  Error at_offset(const std::string& what) const;
  template <class Use>
  Result<bool> with_entry(Use&& use);

  const std::span<const std::byte> file_;
  std::size_t offset_ = 0;
  std::uint64_t begin_ns_ = 0;
  std::uint64_t now_ns_ = 0;
  bool ended_ = false;
  std::optional<Engine> engine_;
};

}  // namespace troupe::engine
