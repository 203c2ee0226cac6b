#include "actors/record_file.h"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

using namespace troupe;

namespace {

struct Directory {
  Directory() { std::filesystem::create_directories(path); }
  ~Directory() { std::filesystem::remove_all(path); }
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("troupe-record-" + std::to_string(std::random_device{}()));
};

kj::Array<capnp::word> words(std::size_t count, int value) {
  auto array = kj::heapArray<capnp::word>(count);
  std::memset(array.asBytes().begin(), value, count * sizeof(capnp::word));
  return array;
}

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(record_file)

BOOST_AUTO_TEST_CASE(what_is_appended_is_in_the_file_in_its_order) {
  const Directory directory;
  std::string expected;
  {
    auto file = RecordFile::create(directory.path / "record", Limits{});
    BOOST_REQUIRE(file.ok());
    for (int i = 0; i < 200; ++i) {
      const auto count = static_cast<std::size_t>(1 + i % 7);
      (*file)->append(words(count, i));
      expected.append(count * sizeof(capnp::word), static_cast<char>(i));
    }
  }
  BOOST_TEST((content(directory.path / "record") == expected));
}

BOOST_AUTO_TEST_CASE(a_file_that_is_there_is_kept) {
  const Directory directory;
  std::ofstream(directory.path / "record") << "older";
  for (const char* name : {"record.1", "record.2"}) {
    auto file = RecordFile::create(directory.path / "record", Limits{});
    BOOST_REQUIRE(file.ok());
    BOOST_TEST((*file)->path() == directory.path / name);
  }
  BOOST_TEST(content(directory.path / "record") == "older");
}

BOOST_AUTO_TEST_CASE(a_place_that_cannot_be_written_is_named) {
  const auto file = RecordFile::create("/nonexistent/record", Limits{});
  BOOST_TEST(file.error().message.find("/nonexistent/record") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_record_that_reaches_a_limit_ends_there_without_a_gap) {
  const Directory directory;
  Limits small_file;
  small_file.record_file_bytes = 4 * sizeof(capnp::word);
  Limits small_queue;
  small_queue.record_queue_bytes = 4 * sizeof(capnp::word);
  for (const Limits& limits : {small_file, small_queue}) {
    std::filesystem::path path;
    {
      auto file = RecordFile::create(directory.path / "record", limits);
      BOOST_REQUIRE(file.ok());
      path = (*file)->path();
      (*file)->append(words(3, 1));
      (*file)->append(words(5, 2));  // too much
      (*file)->append(words(1, 3));  // would fit
    }
    BOOST_TEST(content(path).size() == 3 * sizeof(capnp::word));
  }
}

BOOST_AUTO_TEST_SUITE_END()
