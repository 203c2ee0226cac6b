#include <boost/test/unit_test.hpp>

#include "tests/actors/scheduler_cast.h"

using namespace troupe;
using namespace troupe::testing;

BOOST_AUTO_TEST_SUITE(scheduler_draft)

BOOST_AUTO_TEST_CASE(the_draft_is_asked_before_a_step_and_its_guesses_change_no_token) {
  Cast cast(Cast::draft_options());
  BOOST_TEST(cast.assemble(1));
  cast.generate(7, 5, 12);
  int asked = 0;
  while (!cast.steps.empty() || !cast.draft.pending.empty()) {
    if (!cast.draft.pending.empty()) {
      BOOST_TEST(cast.steps.empty(), "no step before the guesses are there");
      ++asked;
      cast.answer_draft();
    } else {
      cast.pass(1ms);
      cast.work();
    }
  }
  BOOST_TEST(asked > 2);
  BOOST_TEST(cast.inbox.requests[7].tokens == expected(7, 5, 12));
}

BOOST_AUTO_TEST_CASE(a_draft_that_says_nothing_or_ends_holds_up_nobody) {
  for (const bool ends : {false, true}) {
    Cast cast(Cast::draft_options());
    BOOST_TEST(cast.assemble(1));
    cast.generate(7, 5, 12);
    while (cast.draft.pending.empty()) {
      BOOST_REQUIRE(!cast.steps.empty());
      cast.pass(1ms);
      cast.work();
    }
    BOOST_TEST(cast.steps.empty());
    if (ends) {
      caf::anon_send_exit(cast.draft_actor, caf::exit_reason::kill);
      cast.draft.pending.clear();
      cast.run();
    } else {
      cast.pass(100ms);
    }
    BOOST_REQUIRE(cast.steps.size() == 1u);
    BOOST_TEST(cast.steps[0].read()->getGuessCounts().size() == 0u);
    cast.work_until_idle();
    BOOST_TEST(cast.inbox.requests[7].tokens == expected(7, 5, 12));
  }
}

BOOST_AUTO_TEST_SUITE_END()
