// Packed weights on disk: written one tensor at a time, mapped, and checked. The format is in
// pack_table.h.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/pack_table.h"

namespace m3 {

// The files of a checkpoint as they were when it was opened.
std::vector<PackSource> pack_sources(const Checkpoint& checkpoint);

// A mapped file whose head, table and size have been checked, but not yet the data.
class PackFile {
 public:
  // Errors: cannot be mapped, truncated, damaged, or of another version.
  static Result<std::shared_ptr<const PackFile>> open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const PackTable& table() const { return table_; }
  const PackedTensor* find(std::string_view name) const;
  // The tensor's bytes, at a multiple of 4 KiB.
  const std::byte* data(const PackedTensor& tensor) const;

  // Reads these tensors whole, which also brings them into memory, and compares their checksums.
  // `progress` counts bytes. Errors: the first tensor of the list that is damaged.
  Status check(std::span<const PackedTensor* const> tensors, ThreadPool* pool,
               const Progress& progress) const;

 private:
  PackFile() = default;
  std::shared_ptr<const MappedFile> file_;
  PackTable table_;
  std::map<std::string_view, const PackedTensor*> by_name_;
};

class PackWriter {
 public:
  // Errors: as FileWriter.
  static Result<PackWriter> create(const std::string& path, std::string_view layout,
                                   std::vector<PackSource> sources);

  // Appends a tensor; its offset and checksum follow. `pages` holds its bytes, then zeros to the
  // end of the last page. Errors: the disk is full, or any other failure of writing.
  Status add(PackedTensor tensor, std::span<const std::byte> pages);
  // Errors: as add(). Only after this does the file bear its name.
  Status finish();

 private:
  explicit PackWriter(FileWriter file) : file_(std::move(file)) {}
  FileWriter file_;
  PackTable table_;
  std::int64_t end_ = kPackDataBegin;
};

}  // namespace m3
