// Files: read by mapping, written whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace m3 {

// A read-only mapping of a whole file. The mapping is private to us but the file is the world's: a
// file that is cut short while mapped raises SIGBUS, as with every program that maps its weights.
class MappedFile {
 public:
  // Errors: the file cannot be opened, is not a regular file, or cannot be mapped.
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // When the file's content last changed, as it was opened; in ns since 1970.
  std::int64_t modified_ns() const { return modified_ns_; }

  // Lets the system take back the memory of a part of the mapping, which is read again when it is
  // next used. A part that does not lie in the mapping is left alone.
  void release(std::span<const std::byte> part) const;
  // Asks the system to begin reading a part of the mapping.
  void will_need(std::span<const std::byte> part) const;

 private:
  MappedFile(std::string path, const std::byte* data, std::size_t size, std::int64_t modified_ns)
      : path_(std::move(path)), data_(data), size_(size), modified_ns_(modified_ns) {}
  std::string path_;
  const std::byte* data_;
  std::size_t size_;
  std::int64_t modified_ns_;
};

// Reads a small text file. Errors: cannot be read, or is larger than `limit` bytes.
Result<std::string> read_text_file(const std::string& path, std::int64_t limit = 256 << 20);

// Writes a file without a name, or under a temporary one beside `path` where the file system has no
// such files, and names it when commit() succeeds: a full disk or a kill leaves no half-written
// file under the real name, and mostly none at all.
class FileWriter {
 public:
  // Errors: the directory cannot be written, or `path` is something else than a regular file.
  static Result<FileWriter> create(const std::string& path);
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;
  ~FileWriter();  // without commit(): nothing is left

  // Appends. Errors: the disk is full, or any other failure of write(2), with the path.
  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view text);
  // Flushes, closes and renames.
  Status commit();

 private:
  FileWriter(std::string path, std::string temporary, bool named, int descriptor);
  std::string path_;
  std::string temporary_;
  bool named_;  // so, already
  int descriptor_;
};

// Writes a whole file by a FileWriter. Errors: those of its functions.
Status write_text_file(const std::string& path, std::string_view text);

// What the system says of the call that failed last on this thread: "No space left on device".
std::string last_error();

// Errors: the file system of a directory has less than `bytes` left.
Status expect_space(const std::string& directory, std::int64_t bytes);

// Waits until what a directory lists is on the disk, so that new names and their order survive the
// machine. Errors: it cannot be opened, or the disk fails.
Status sync_directory(const std::string& path);

// Creates a directory and its parents. Errors: a file stands in the way, or no permission.
Status make_directories(const std::string& path);

}  // namespace m3
