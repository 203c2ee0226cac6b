#pragma once

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace troupe::model::testing {

// The folder of shared test data: $TROUPE_FIXTURES, or ../shared/fixtures from the source root, where ctest runs.
inline std::filesystem::path fixtures() {
  const char* named = std::getenv("TROUPE_FIXTURES");
  return named != nullptr ? std::filesystem::path(named) : std::filesystem::path("../shared/fixtures");
}

// For boost::unit_test::precondition.
struct HasFixtures {
  boost::test_tools::assertion_result operator()(boost::unit_test::test_unit_id) const {
    boost::test_tools::assertion_result result(std::filesystem::is_directory(fixtures()));
    result.message() << "no fixtures at " << fixtures() << "; set TROUPE_FIXTURES";
    return result;
  }
};

}  // namespace troupe::model::testing
