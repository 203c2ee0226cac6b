#include <capnp/common.h>
#include <ucp/api/ucp_version.h>

#include <CLI/CLI.hpp>
#include <boost/version.hpp>
#include <caf/config.hpp>
#include <iostream>

#include "cluster/command/verbs.h"

namespace troupe::cluster {
namespace {

int run_version() {
  std::cout << "troupe " << TROUPE_VERSION << "\n"
            << "built with GCC-compatible compiler " << __VERSION__ << ", CAF " << CAF_VERSION / 10000 << "."
            << CAF_VERSION / 100 % 100 << "." << CAF_VERSION % 100 << ", UCX API " << UCP_API_MAJOR << "."
            << UCP_API_MINOR << ", Cap'n Proto " << CAPNP_VERSION_MAJOR << "." << CAPNP_VERSION_MINOR << "."
            << CAPNP_VERSION_MICRO << ", Boost " << BOOST_VERSION / 100000 << "." << BOOST_VERSION / 100 % 1000 << "\n";
  return 0;
}

}  // namespace

VerbRun prepare_version(CLI::App&) { return run_version; }

}  // namespace troupe::cluster
