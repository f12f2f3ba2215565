// One safetensors file: 8 bytes of header length (little endian), a JSON header, then the data.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace m3 {

// What the header says of one tensor.
struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0;  // bytes, from the start of the data
  std::int64_t end = 0;
};

// The header's free texts, `__metadata__`.
using Metadata = std::map<std::string, std::string, std::less<>>;

// A mapped file whose header has been checked: every range lies in the file, has the size that type
// and shape ask for, and overlaps no other.
class SafetensorsFile {
 public:
  // Errors: not a safetensors file, truncated, header longer than the file or than 512 MiB, broken
  // JSON, unknown type, negative or overflowing shape, ranges that overlap, leave holes or lie
  // outside.
  static Result<std::shared_ptr<const SafetensorsFile>> open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const MappedFile& mapping() const { return *file_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in order of their data
  const TensorInfo* find(std::string_view name) const;
  const Metadata& metadata() const { return metadata_; }
  // A view into the mapping. It may lie at any address: see codec_plain.cc.
  Tensor tensor(const TensorInfo& info) const;

 private:
  SafetensorsFile() = default;
  std::shared_ptr<const MappedFile> file_;
  std::int64_t data_begin_ = 0;
  Metadata metadata_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

// The header's tensors, checked against a file of `file_bytes` bytes whose first bytes are `head`
// (at least the length and the header). The parser behind open(), apart for the fuzzer.
// On success also tells where the data begins.
struct ParsedHeader {
  std::vector<TensorInfo> tensors;
  Metadata metadata;
  std::int64_t data_begin = 0;
};
Result<ParsedHeader> parse_safetensors_header(std::span<const std::byte> head,
                                              std::int64_t file_bytes, std::string_view where);

// The length and the header of a file that holds these tensors in this order; sets their ranges.
// "format": "pt", for which readers of other projects ask, is added to the metadata.
// Errors: a name that occurs twice, a shape that is negative or overflows.
Result<std::string> safetensors_header(std::vector<TensorInfo>& tensors, Metadata metadata = {});

// Writes one file front to back, holding one tensor's bytes at a time: declare all tensors, then
// write their data in the same order, in as many pieces as it suits. Declare wide types first: then
// every tensor lies at a multiple of its element size.
class SafetensorsWriter {
 public:
  // Offsets follow from order, types and shapes; `begin` and `end` of the infos are ignored.
  // Errors: as safetensors_header, or the file cannot be created.
  static Result<SafetensorsWriter> create(const std::string& path, std::vector<TensorInfo> tensors,
                                          Metadata metadata = {});

  // Appends bytes of the current tensor; moves on to the next when it is complete. More bytes than
  // were declared are our mistake. Errors: the disk is full, or any other failure of writing.
  Status write(std::span<const std::byte> bytes);
  // Errors: data missing, or the disk is full. Only after this does the file bear its name.
  Status finish();

 private:
  SafetensorsWriter(std::string path, FileWriter file, std::int64_t data_bytes)
      : path_(std::move(path)), file_(std::move(file)), missing_bytes_(data_bytes) {}
  std::string path_;
  FileWriter file_;
  std::int64_t missing_bytes_;
};

// A whole small file at once, e.g. what `m3 logits --out` writes. Errors: as SafetensorsWriter.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};
Status write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                         Metadata metadata = {});

}  // namespace m3
