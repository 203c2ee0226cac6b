#include "cluster/command/output_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>

#include "runtime/base/log.h"

namespace troupe::cluster {

int write_output(std::string_view who, const std::string& file, std::string_view text) {
  if (file == "-") {
    std::cout << text << std::flush;
    return std::cout ? 0 : 1;
  }
  errno = 0;
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << text << std::flush;
  if (out) return 0;
  fmt::print(stderr, "{}: cannot write {}: {}\n", who, one_line(file), std::strerror(errno));
  return 1;
}

}  // namespace troupe::cluster
