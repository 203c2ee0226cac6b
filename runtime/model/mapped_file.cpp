#include "runtime/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace troupe::model {
namespace {

// An open file descriptor, closed at the end of the scope.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

std::string last_system_error() { return std::generic_category().message(errno); }

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const std::string place = path.string();
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (descriptor.number() < 0) return not_found(place + ": cannot be opened: " + last_system_error());
  struct stat status {};
  if (::fstat(descriptor.number(), &status) != 0) return unavailable(place + ": " + last_system_error());
  if (!S_ISREG(status.st_mode)) return invalid_argument(place + ": not a regular file");
  const auto bytes = static_cast<std::size_t>(status.st_size);
  if (bytes == 0) return MappedFile({});
  void* mapping = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor.number(), 0);
  if (mapping == MAP_FAILED) return unavailable(place + ": cannot be mapped: " + last_system_error());
  return MappedFile({static_cast<const std::byte*>(mapping), bytes});
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace troupe::model
