#include "cluster/http/sse_parser.h"

#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

namespace troupe::cluster {

BOOST_AUTO_TEST_CASE(events_are_the_same_however_the_bytes_are_cut) {
  const std::string stream =
      ": comment\ndata: one\n\nevent: x\ndata:two\r\ndata: more\r\n\r\nid: 3\n\ndata: [DONE]\n\n";
  const std::vector<std::string> expected = {"one", "two\nmore", "[DONE]"};
  for (std::size_t cut = 1; cut <= stream.size(); ++cut) {
    SseParser parser;
    std::vector<std::string> events;
    for (std::size_t at = 0; at < stream.size(); at += cut) {
      const auto more = parser.add(std::string_view(stream).substr(at, cut), [&](std::string_view data) {
        events.emplace_back(data);
        return true;
      });
      BOOST_TEST((more.ok() && *more));
    }
    BOOST_TEST(events == expected, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(a_handler_that_has_enough_ends_the_stream) {
  SseParser parser;
  int events = 0;
  const auto more = parser.add("data: a\n\ndata: b\n\n", [&](std::string_view) {
    ++events;
    return false;
  });
  BOOST_TEST((more.ok() && !*more));
  BOOST_TEST(events == 1);
}

BOOST_AUTO_TEST_CASE(an_event_without_end_is_an_error) {
  SseParser parser;
  const std::string chunk(1 << 20, 'x');
  Result<bool> more = true;
  for (int i = 0; i < 17 && more.ok(); ++i) more = parser.add(chunk, [](std::string_view) { return true; });
  BOOST_TEST(!more.ok());
}

}  // namespace troupe::cluster
