#include "cluster/run_state.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

constexpr std::size_t kMaxStateBytes = 64 << 10;

std::filesystem::path path_of(const std::string& cluster) { return run_directory() / (cluster + ".json"); }

// Secrets lie there: nobody else may own it or look into it.
Result<void> make_private_directory(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory.parent_path(), error);
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return unavailable(directory.string() + ": " + std::strerror(errno) + "; set TROUPE_RUN_DIR to another place");
  }
  struct stat status {};
  if (lstat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != geteuid() ||
      (status.st_mode & 077) != 0) {
    return unavailable(directory.string() + " must be a directory that only you can read (chmod 700)");
  }
  return {};
}

Result<std::string> read_all(int file, const std::filesystem::path& path) {
  std::string text(kMaxStateBytes, '\0');
  const ssize_t size = pread(file, text.data(), text.size(), 0);
  if (size < 0) return unavailable(path.string() + ": " + std::strerror(errno));
  text.resize(static_cast<std::size_t>(size));
  return text;
}

Result<RunState> parse(const std::string& text, const std::filesystem::path& path) {
  try {
    const boost::json::object object = boost::json::parse(text).as_object();
    const auto string_of = [&](const char* key) { return std::string(object.at(key).as_string()); };
    return RunState{.cluster = string_of("cluster"),
                    .pid = object.at("pid").to_number<std::uint32_t>(),
                    .endpoint = string_of("endpoint"),
                    .secret = string_of("secret"),
                    .netns = string_of("netns"),
                    .transports = string_of("transports")};
  } catch (const std::exception& exception) {
    return corrupt_data(path.string() + ": " + exception.what() + "; remove it");
  }
}

// Whose lock is on the open file and on no thread or process: what a fork inherits goes on with it.
struct flock whole_file(short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

// Asks without locking: a reader's lock, however short, would keep a cluster from starting.
bool is_locked(int file) {
  struct flock lock = whole_file(F_RDLCK);
  return fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_WRLCK;
}

int open_to_read(const std::filesystem::path& path) { return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW); }

std::string running_clusters() {
  std::string names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_directory(), error)) {
    if (entry.path().extension() != ".json") continue;
    const int file = open_to_read(entry.path());
    if (file < 0) continue;
    if (is_locked(file)) names += (names.empty() ? "" : ", ") + entry.path().stem().string();
    close(file);
  }
  return names.empty() ? "none" : names;
}

// Whether `path` still leads to the open file: who held it before may have removed it since it was opened.
bool leads_to(const std::filesystem::path& path, int file) {
  struct stat there, opened;
  return lstat(path.c_str(), &there) == 0 && fstat(file, &opened) == 0 && there.st_dev == opened.st_dev &&
         there.st_ino == opened.st_ino;
}

}  // namespace

std::filesystem::path run_directory() {
  if (const char* directory = std::getenv("TROUPE_RUN_DIR"); directory != nullptr && *directory != '\0') {
    return directory;
  }
  if (const char* runtime = std::getenv("XDG_RUNTIME_DIR"); runtime != nullptr && *runtime != '\0') {
    return std::filesystem::path(runtime) / "troupe";
  }
  return "/tmp/troupe-" + std::to_string(geteuid());
}

Result<RunStateFile> RunStateFile::claim(const std::string& cluster) {
  const std::filesystem::path path = path_of(cluster);
  TROUPE_RETURN_IF_ERROR(make_private_directory(path.parent_path()));
  while (true) {
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return unavailable(path.string() + ": " + std::strerror(errno));
    const struct flock lock = whole_file(F_WRLCK);
    if (fcntl(file, F_OFD_SETLK, &lock) != 0) {
      std::string owner;
      if (auto text = read_all(file, path); text.ok()) {
        if (auto state = parse(*text, path); state.ok()) owner = " (process " + std::to_string(state->pid) + ")";
      }
      close(file);
      return unavailable("a cluster named " + cluster + " runs already" + owner +
                         "; end it with 'troupe down', or give this one another name with 'cluster:'");
    }
    // From here on nobody but us removes it.
    if (leads_to(path, file)) {
      RunStateFile claimed(path, file);
      // What a process that was killed has left.
      if (ftruncate(file, 0) != 0) return unavailable(path.string() + ": " + std::strerror(errno));
      return claimed;
    }
    close(file);
  }
}

RunStateFile::RunStateFile(RunStateFile&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

RunStateFile::~RunStateFile() {
  if (file_ < 0) return;
  unlink(path_.c_str());
  close(file_);
}

Result<void> RunStateFile::write(const RunState& state) {
  const std::string text = boost::json::serialize(boost::json::object{{"cluster", state.cluster},
                                                                      {"pid", state.pid},
                                                                      {"endpoint", state.endpoint},
                                                                      {"secret", state.secret},
                                                                      {"netns", state.netns},
                                                                      {"transports", state.transports}});
  if (ftruncate(file_, 0) != 0 || pwrite(file_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return unavailable(path_.string() + ": " + std::strerror(errno));
  }
  return {};
}

Result<RunState> read_run_state(const std::string& cluster) {
  const std::filesystem::path path = path_of(cluster);
  const int file = open_to_read(path);
  // Nobody holds the lock: its process was killed and could not remove the file.
  const bool is_running = file >= 0 && is_locked(file);
  Result<std::string> text = std::string();
  if (is_running) text = read_all(file, path);
  if (file >= 0) close(file);
  if (!is_running) {
    return not_found("no cluster named " + cluster + " is running here (running: " + running_clusters() + ")");
  }
  if (!text.ok()) return std::move(text).error();
  if (text->empty()) return unavailable("cluster " + cluster + " is about to start; ask again in a moment");
  return parse(*text, path);
}

}  // namespace troupe::cluster
