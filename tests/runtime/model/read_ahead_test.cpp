#include "runtime/model/read_ahead.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <thread>

namespace troupe::model::testing {
namespace {

// A file without a name, mapped and taken out of the page cache.
class ColdFile {
 public:
  explicit ColdFile(std::size_t bytes) : bytes_(bytes) {
    char name[] = "/var/tmp/troupe-test-XXXXXX";
    descriptor_ = ::mkstemp(name);
    BOOST_REQUIRE(descriptor_ >= 0);
    ::unlink(name);
    const std::vector<char> content(bytes, 1);
    BOOST_REQUIRE(::write(descriptor_, content.data(), bytes) == static_cast<ssize_t>(bytes));
    ::fsync(descriptor_);
    ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
    data_ = static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor_, 0));
    BOOST_REQUIRE(data_ != MAP_FAILED);
  }
  ~ColdFile() {
    ::munmap(data_, bytes_);
    ::close(descriptor_);
  }

  std::span<const std::byte> part(std::size_t offset, std::size_t bytes) const { return {data_ + offset, bytes}; }

  // Whether all pages of a part are in the page cache.
  bool is_cached(std::size_t offset, std::size_t bytes) const {
    std::vector<unsigned char> pages((bytes + 4095) / 4096);
    BOOST_REQUIRE(::mincore(data_ + offset, bytes, pages.data()) == 0);
    return std::all_of(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
  }

 private:
  std::size_t bytes_;
  int descriptor_ = -1;
  std::byte* data_ = nullptr;
};

constexpr std::size_t kMiB = std::size_t{1} << 20;

BOOST_AUTO_TEST_SUITE(read_ahead)

BOOST_AUTO_TEST_CASE(parts_come_into_the_page_cache_though_nobody_touches_them) {
  const ColdFile file(8 * kMiB);
  ReadAhead ahead({file.part(100, 2 * kMiB), {}, file.part(5 * kMiB + 7, 3 * kMiB - 7)});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!file.is_cached(0, 2 * kMiB) || !file.is_cached(5 * kMiB, 3 * kMiB)) {
    BOOST_REQUIRE(std::chrono::steady_clock::now() < deadline);
    std::this_thread::yield();
  }
}

BOOST_AUTO_TEST_CASE(who_gives_up_loading_does_not_wait_for_the_rest) {
  // Address space that nobody may touch: advice about it is refused at once, so that the end of the window is reached.
  const std::size_t bytes = 4 * ReadAhead::kWindowBytes;
  void* const memory = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  BOOST_REQUIRE(memory != MAP_FAILED);
  const std::span<const std::byte> whole(static_cast<const std::byte*>(memory), bytes);
  {
    ReadAhead ahead({whole.first(bytes / 2), whole.subspan(bytes / 2)});
    ahead.advance(1);
  }
  ::munmap(memory, bytes);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
