#include "runtime/engine/ngram_proposer.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace troupe::engine {

namespace {

constexpr std::size_t kMostProbes = 16;
constexpr std::size_t kSlotsAToken = 3 * (NgramProposer::kMaxMatch - NgramProposer::kMinMatch + 1);

// Tokens that one call reads at most: some hundred microseconds.
constexpr std::uint32_t kReadACall = 2048;

std::uint32_t hash_of(std::span<const std::uint32_t> run) {
  std::uint64_t hash = run.size() * 0xD6E8FEB86659FD93;
  for (const std::uint32_t token : run) {
    hash = (hash ^ token) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 32;
  }
  return static_cast<std::uint32_t>(hash);
}

}  // namespace

NgramProposer::Proposal NgramProposer::propose(std::span<const std::uint32_t> tokens, std::uint32_t most) {
  read_on(tokens);
  return read_ > 0 && read_ + 1 == tokens.size() && most > 0 ? best_match(tokens, most) : Proposal{};
}

void NgramProposer::read_on(std::span<const std::uint32_t> tokens) {
  const auto length = static_cast<std::uint32_t>(tokens.size());
  // The run that ends with the newest token would only find itself.
  if (length > 1) read(tokens, std::min(length - 1, read_ + kReadACall));
}

NgramProposer::Proposal NgramProposer::peek(std::span<const std::uint32_t> tokens, std::uint32_t most) const {
  const bool has_read = read_ > 0 && read_ + 2 >= tokens.size();
  return has_read && most > 0 ? best_match(tokens, most) : Proposal{};
}

NgramProposer::Proposal NgramProposer::best_match(std::span<const std::uint32_t> tokens, std::uint32_t most) const {
  Proposal proposal;
  const auto length = static_cast<std::uint32_t>(tokens.size());
  for (std::uint32_t matched = std::min(kMaxMatch, length - 1); matched >= kMinMatch; --matched) {
    const std::uint32_t end = find(tokens, matched);
    if (end == 0) continue;
    proposal.matched = matched;
    // What followed, and beyond the end of the sequence the same again: a period goes on.
    for (std::uint32_t i = 0; i < most; ++i) proposal.tokens.push_back(tokens[end + i % (length - end)]);
    break;
  }
  return proposal;
}

void NgramProposer::read(std::span<const std::uint32_t> tokens, std::uint32_t end) {
  make_room(end);
  for (; read_ < end; ++read_) {
    const std::uint32_t next = read_ + 1;
    for (std::uint32_t size = kMinMatch; size <= std::min(kMaxMatch, next); ++size) {
      const std::uint32_t hash = hash_of(tokens.subspan(next - size, size));
      slots_[slot_of(hash)] = {.hash = hash, .end = next};
    }
  }
}

// The table doubles, so that a token costs the same whatever the length.
void NgramProposer::make_room(std::uint32_t tokens) {
  if (slots_.size() >= kSlotsAToken * tokens) return;
  const std::vector<Slot> entries = std::exchange(slots_, std::vector<Slot>(std::bit_ceil(kSlotsAToken * tokens)));
  for (const Slot& entry : entries) {
    if (entry.end != 0) slots_[slot_of(entry.hash)] = entry;
  }
}

// Where the entry of that hash is, or else the place for it: a free one, or that of the oldest entry near by.
std::size_t NgramProposer::slot_of(std::uint32_t hash) const {
  const auto place = [&](std::size_t probe) { return (hash + probe) & (slots_.size() - 1); };
  std::size_t oldest = place(0);
  for (std::size_t probe = 0; probe < kMostProbes; ++probe) {
    const Slot& slot = slots_[place(probe)];
    if (slot.end == 0 || slot.hash == hash) return place(probe);
    if (slot.end < slots_[oldest].end) oldest = place(probe);
  }
  return oldest;
}

// Where the last `matched` tokens ended the last time before; 0 = nowhere that is known.
std::uint32_t NgramProposer::find(std::span<const std::uint32_t> tokens, std::uint32_t matched) const {
  const auto run = tokens.last(matched);
  const std::uint32_t hash = hash_of(run);
  const Slot& slot = slots_[slot_of(hash)];
  if (slot.hash != hash || slot.end < matched) return 0;
  const auto earlier = tokens.subspan(slot.end - matched, matched);
  return std::equal(run.begin(), run.end(), earlier.begin()) ? slot.end : 0;
}

}  // namespace troupe::engine
