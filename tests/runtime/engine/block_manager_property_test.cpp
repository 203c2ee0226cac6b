#include <rapidcheck.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/block_manager.h"

using namespace troupe::engine;

namespace {

using Tokens = std::vector<std::uint32_t>;

enum class Event { kBegin, kPublish, kRelease, kForget };

// The published blocks as a flat map from a whole beginning to its block, searched and evicted by looking at all.
struct Model {
  using Key = std::pair<std::string, Tokens>;  // salt, every token up to the end of the block
  struct Published {
    std::uint32_t block;
    std::set<std::uint64_t> holders;
    std::uint64_t idle_since = 0;
  };

  Key key(const std::string& salt, const Tokens& tokens, std::size_t blocks) const {
    return {salt, Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(blocks * block_size))};
  }

  std::size_t idle() const {
    return static_cast<std::size_t>(std::count_if(published.begin(), published.end(),
                                                  [](const auto& entry) { return entry.second.holders.empty(); }));
  }

  // Of what nobody has held for longest, the longest: a leaf.
  std::uint32_t evict() {
    const auto worse = [](const auto& a, const auto& b) {
      if (a.second.holders.empty() != b.second.holders.empty()) return a.second.holders.empty();
      if (a.second.idle_since != b.second.idle_since) return a.second.idle_since < b.second.idle_since;
      return a.first.second.size() > b.first.second.size();
    };
    const auto victim = std::min_element(published.begin(), published.end(), worse);
    RC_ASSERT(victim->second.holders.empty());
    for (const auto& [key, entry] : published) {
      const bool below = key.first == victim->first.first && key.second.size() > victim->first.second.size() &&
                         std::equal(victim->first.second.begin(), victim->first.second.end(), key.second.begin());
      RC_ASSERT(!below);
    }
    const std::uint32_t block = victim->second.block;
    published.erase(victim);
    return block;
  }

  std::size_t block_size;
  std::map<Key, Published> published;
};

struct Live {
  std::string salt;
  Tokens tokens;
  std::size_t published = 0;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(block_manager_properties)

BOOST_AUTO_TEST_CASE(what_is_found_and_what_is_evicted_is_what_a_flat_map_says) {
  const bool holds = rc::check([] {
    const std::uint32_t num_blocks = *rc::gen::inRange(1u, 16u), block_size = *rc::gen::inRange(1u, 4u);
    const std::uint64_t most = *rc::gen::element<std::uint64_t>(1, 4, 1'000);
    BlockManager blocks(num_blocks, block_size, most);
    Model model{.block_size = block_size, .published = {}};
    std::map<std::uint64_t, Live> live;
    std::size_t unpublished_held = 0;  // blocks in tables that are not in the model
    std::uint64_t time = 0, next = 1;

    const auto release = [&](std::uint64_t id) {
      const Live& sequence = live.at(id);
      ++time;
      for (std::size_t i = 1; i <= sequence.published; ++i) {
        auto& entry = model.published.at(model.key(sequence.salt, sequence.tokens, i));
        entry.holders.erase(id);
        if (entry.holders.empty()) entry.idle_since = time;
      }
      unpublished_held -= blocks.table(id).size() - sequence.published;
      blocks.release(id);
      live.erase(id);
      while (model.idle() > most) model.evict();
    };

    const auto events = *rc::gen::container<std::vector<Event>>(rc::gen::weightedElement<Event>(
        {{8, Event::kBegin}, {8, Event::kPublish}, {6, Event::kRelease}, {1, Event::kForget}}));
    for (const Event event : events) {
      if (event == Event::kBegin) {
        Live sequence{.salt = *rc::gen::element("", "a", "b"), .tokens = {}};
        // Two letters: beginnings often meet.
        sequence.tokens = *rc::gen::container<Tokens>(*rc::gen::inRange<std::size_t>(1, 14), rc::gen::inRange(0u, 2u));
        const CachedPrefix prefix = blocks.find_prefix(sequence.salt, sequence.tokens);
        std::size_t cached = 0, idle = 0;
        while ((cached + 1) * block_size < sequence.tokens.size()) {
          const auto found = model.published.find(model.key(sequence.salt, sequence.tokens, cached + 1));
          if (found == model.published.end()) break;
          RC_ASSERT(cached < prefix.blocks.size());
          RC_ASSERT(prefix.blocks[cached] == found->second.block);
          idle += found->second.holders.empty() ? 1 : 0;
          ++cached;
        }
        RC_ASSERT(prefix.blocks.size() == cached);
        RC_ASSERT(prefix.idle == idle);
        const std::size_t wanted = blocks.blocks_for(sequence.tokens.size()) - cached;
        if (wanted + idle > blocks.free_blocks()) continue;
        const std::size_t never_cached = blocks.free_blocks() - model.idle();
        blocks.adopt(next, prefix);
        RC_ASSERT(blocks.grow(next, sequence.tokens.size()));
        for (std::size_t i = 1; i <= cached; ++i) {
          model.published.at(model.key(sequence.salt, sequence.tokens, i)).holders.insert(next);
        }
        std::set<std::uint32_t> evicted;
        for (std::size_t i = never_cached; i < wanted; ++i) evicted.insert(model.evict());
        const auto table = blocks.table(next);
        for (const std::uint32_t block : evicted) RC_ASSERT(std::count(table.begin(), table.end(), block) == 1);
        sequence.published = cached;
        unpublished_held += wanted;
        live.emplace(next++, sequence);
      } else if (event == Event::kForget) {
        while (!live.empty()) release(live.begin()->first);
        blocks.forget_published();
        model.published.clear();
      } else if (!live.empty()) {
        const std::uint64_t id = *rc::gen::inRange<std::uint64_t>(1, next);
        const auto found = live.find(id);
        if (found == live.end()) continue;
        Live& sequence = found->second;
        if (event == Event::kRelease) {
          release(id);
          continue;
        }
        const std::size_t computed = *rc::gen::inRange<std::size_t>(0, sequence.tokens.size() + 1);
        blocks.publish(id, sequence.salt, std::span(sequence.tokens).first(computed));
        while (sequence.published < computed / block_size) {
          auto& entry = model.published[model.key(sequence.salt, sequence.tokens, sequence.published + 1)];
          if (!entry.holders.empty()) break;
          entry.block = blocks.table(id)[sequence.published];
          entry.holders.insert(id);
          ++sequence.published;
          --unpublished_held;
        }
        RC_ASSERT(blocks.published(id) == sequence.published);
      }
      std::set<std::uint32_t> seen;
      for (const auto& [key, entry] : model.published) {
        RC_ASSERT(seen.insert(entry.block).second);
        RC_ASSERT(blocks.references(entry.block) == entry.holders.size());
      }
      RC_ASSERT(blocks.cache().size() == model.published.size());
      RC_ASSERT(blocks.cache().idle_nodes() == model.idle());
      RC_ASSERT(blocks.free_blocks() + unpublished_held + model.published.size() - model.idle() == num_blocks);
    }
  });
  BOOST_TEST(holds);
}

BOOST_AUTO_TEST_SUITE_END()
