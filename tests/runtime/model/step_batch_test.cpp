#include "runtime/model/step_batch.h"

#include <boost/test/unit_test.hpp>
#include <functional>
#include <vector>

namespace troupe::model {
namespace {

// Two sequences: three rows at positions 2 to 4 in blocks 3 and 1, and one row at position 0 in block 0.
struct Lists {
  std::vector<std::uint32_t> tokens{9, 8, 7, 6}, positions{2, 3, 4, 0}, slots{14, 15, 4, 0}, row_starts{0, 3, 4},
      context_lengths{5, 1}, block_tables{3, 1, 0}, block_table_starts{0, 2, 3}, logits_rows{2, 3};

  Result<void> check() const {
    const BatchBounds bounds{10, 4, 4, 4, 2};
    return check_batch(
        {tokens, positions, slots, {row_starts, context_lengths, block_tables, block_table_starts}, logits_rows},
        bounds);
  }
};

BOOST_AUTO_TEST_SUITE(step_batch)

BOOST_AUTO_TEST_CASE(a_sound_batch_passes) { BOOST_TEST(Lists().check().ok()); }

BOOST_AUTO_TEST_CASE(every_broken_list_is_named) {
  const std::vector<std::pair<std::string, std::function<void(Lists&)>>> defects = {
      {"tokens", [](Lists& lists) { lists.tokens[1] = 10; }},
      {"tokens", [](Lists& lists) { lists.tokens.clear(); }},
      {"tokens", [](Lists& lists) { lists.tokens.resize(5); }},
      {"positions", [](Lists& lists) { lists.positions.pop_back(); }},
      {"positions", [](Lists& lists) { lists.positions[2] = 3; }},
      {"slots", [](Lists& lists) { lists.slots.push_back(0); }},
      {"slots", [](Lists& lists) { lists.slots[0] = 13; }},
      {"row_starts", [](Lists& lists) { lists.row_starts[0] = 1; }},
      {"row_starts", [](Lists& lists) { lists.row_starts[1] = 0; }},
      {"row_starts", [](Lists& lists) { lists.row_starts[1] = 5; }},
      {"row_starts", [](Lists& lists) { lists.row_starts[2] = 3; }},
      {"row_starts", [](Lists& lists) { lists.row_starts.pop_back(); }},
      {"context_lengths", [](Lists& lists) { lists.context_lengths[0] = 2; }},
      {"context_lengths", [](Lists& lists) { lists.context_lengths[0] = 9; }},
      {"context_lengths", [](Lists& lists) { lists.context_lengths.clear(); }},
      {"context_lengths", [](Lists& lists) { lists.context_lengths.resize(3); }},
      {"block_tables", [](Lists& lists) { lists.block_tables[1] = 4; }},
      {"block_table_starts", [](Lists& lists) { lists.block_table_starts[2] = 4; }},
      {"block_table_starts", [](Lists& lists) { lists.block_table_starts[0] = 3; }},
      {"block_table_starts", [](Lists& lists) { lists.block_table_starts.pop_back(); }},
      {"logits_rows", [](Lists& lists) { lists.logits_rows[0] = 4; }},
  };
  for (std::size_t i = 0; i < defects.size(); ++i) {
    BOOST_TEST_CONTEXT("defect " << i) {
      Lists lists;
      defects[i].second(lists);
      const auto result = lists.check();
      BOOST_REQUIRE(!result.ok());
      BOOST_TEST(result.error().param == defects[i].first);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model
