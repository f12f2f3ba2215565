#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace m3 {
namespace {

// Closes the descriptor when it goes out of scope.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

Result<struct stat> regular_file(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return fail("cannot read {}: {}", path, last_error());
  if (!S_ISREG(info.st_mode)) return fail("{} is not a regular file", path);
  return info;
}

// Advice about a part of a mapping. A refusal changes nothing.
void advise(std::span<const std::byte> mapping, std::span<const std::byte> part, int advice) {
  // A page fault maps the pages around, too: all of its window, or some would stay behind.
  constexpr std::uintptr_t kWindow = 64 << 10;
  const auto address = [](const std::byte* p) { return reinterpret_cast<std::uintptr_t>(p); };
  const std::uintptr_t from = address(mapping.data()), to = from + mapping.size();
  std::uintptr_t begin = address(part.data()), end = begin + part.size();
  if (begin < from || end > to || part.empty()) return;
  begin = std::max(from, begin / kWindow * kWindow);
  end = std::min(to, (end + kWindow - 1) / kWindow * kWindow);
  ::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

std::string last_error() {
  return std::strerror(errno);
}

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  // Without O_NONBLOCK, a pipe among the files would keep us waiting for its writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return fail("cannot open {}: {}", path, last_error());
  M3_TRY(const struct stat info, regular_file(file.fd, path));
  const auto size = static_cast<std::size_t>(info.st_size);
  const std::int64_t modified_ns =
      std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  void* data = nullptr;
  if (size > 0) {
    data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (data == MAP_FAILED) return fail("cannot map {} ({} bytes): {}", path, size, last_error());
  }
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, static_cast<const std::byte*>(data), size, modified_ns));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const {
  advise(bytes(), part, MADV_DONTNEED);
}

void MappedFile::will_need(std::span<const std::byte> part) const {
  advise(bytes(), part, MADV_WILLNEED);
}

Result<std::string> read_text_file(const std::string& path, std::int64_t limit) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return fail("cannot open {}: {}", path, last_error());
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(file.fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("cannot read {}: {}", path, last_error());
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
    if (static_cast<std::int64_t>(text.size()) > limit)
      return fail("{} is larger than {} bytes", path, limit);
  }
}

FileWriter::FileWriter(std::string path, std::string temporary, bool named, int descriptor)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      named_(named),
      descriptor_(descriptor) {}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      named_(other.named_),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

FileWriter::~FileWriter() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (named_) ::unlink(temporary_.c_str());
}

Result<FileWriter> FileWriter::create(const std::string& asked) {
  // A link stays and what it points to is written; a device or a pipe would be replaced by a file.
  std::error_code error;
  const std::filesystem::path target = std::filesystem::weakly_canonical(asked, error);
  const std::string path = error ? asked : target.string();
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error))
    return fail("cannot write {}: it exists and is not a regular file", asked);
  std::string temporary = fmt::format("{}.{}.part", path, ::getpid());
  const std::string directory = std::filesystem::path(path).parent_path().string();
  int fd =
      ::open(directory.empty() ? "." : directory.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0644);
  const bool named = fd < 0;
  if (named) fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return fail("cannot create {}: {}", path, last_error());
  return FileWriter(path, std::move(temporary), named, fd);
}

Status FileWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("cannot write {}: {}", path_, last_error());
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Status FileWriter::write(std::string_view text) {
  return write(std::as_bytes(std::span(text.data(), text.size())));
}

Status FileWriter::commit() {
  const int fd = std::exchange(descriptor_, -1);
  bool synced = ::fsync(fd) == 0 || errno == EINVAL || errno == EROFS;
  if (synced && !named_) {
    ::unlink(temporary_.c_str());  // of a process that had this number, on another machine
    synced = ::linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd).c_str(), AT_FDCWD,
                      temporary_.c_str(), AT_SYMLINK_FOLLOW) == 0;
  }
  const std::string why = synced ? "" : last_error();
  if (::close(fd) != 0 || !synced) {
    const std::string found = synced ? last_error() : why;
    ::unlink(temporary_.c_str());
    return fail("cannot finish writing {}: {}", path_, found);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const std::string found = last_error();
    ::unlink(temporary_.c_str());
    return fail("cannot name {}: {}", path_, found);
  }
  return {};
}

Status write_text_file(const std::string& path, std::string_view text) {
  M3_TRY(FileWriter file, FileWriter::create(path));
  M3_TRY_STATUS(file.write(text));
  return file.commit();
}

Status expect_space(const std::string& directory, std::int64_t bytes) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(directory, error);
  if (!error && space.available < static_cast<std::uintmax_t>(bytes))
    return fail("{} needs {} bytes more, but its disk has only {} left", directory, bytes,
                space.available);
  return {};
}

Status sync_directory(const std::string& path) {
  const Descriptor directory{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (directory.fd < 0) return fail("cannot open the directory {}: {}", path, last_error());
  if (::fsync(directory.fd) != 0 && errno != EINVAL && errno != EROFS)
    return fail("cannot write the directory {}: {}", path, last_error());
  return {};
}

Status make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return fail("cannot create the directory {}: {}", path, error.message());
  return {};
}

}  // namespace m3
