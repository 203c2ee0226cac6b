#pragma once

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

namespace troupe::model::testing {

// The folder of shared test data: $TROUPE_FIXTURES, or ../shared/fixtures from the source root, where ctest runs.
inline std::filesystem::path fixtures() {
  const char* named = std::getenv("TROUPE_FIXTURES");
  return named != nullptr ? std::filesystem::path(named) : std::filesystem::path("../shared/fixtures");
}

// For boost::unit_test::precondition: tests that need the fixtures are skipped where there are none.
inline boost::test_tools::assertion_result has_fixtures(boost::unit_test::test_unit_id) {
  const bool found = std::filesystem::is_directory(fixtures());
  if (!found) std::cerr << "skipped: no fixtures at " << fixtures() << "; set TROUPE_FIXTURES\n";
  return found;
}

}  // namespace troupe::model::testing
