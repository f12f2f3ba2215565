// The file in which weights are kept in the layout that a backend reads fastest (`m3 pack`).
//
// It can be made again from the checkpoint beside it at any time, so it is checked hard and never
// repaired: whatever in it is not as expected, it is written anew.
//
//   head     2 MiB: the magic, then zeros
//   data     the tensors in the table's order. The first begins at 2 MiB, so that it may lie in
//            large pages; each takes whole pages of 4 KiB, the last of them filled with zeros
//   table    begins where the data end
//   trailer  offset, bytes and checksum of the table, the magic; 32 bytes
//
//   table    version, layout,
//            number of source files: each name, bytes, time of modification in ns since 1970,
//            number of tensors: each name, format, rows, cols, offset, bytes, checksum
//
// Numbers are 64 bits, little endian; a text is its length and its bytes. The table comes last, so
// that writing needs one tensor in memory. Checksums are XXH3 of 64 bits; a tensor's covers its
// last page to the end, so that no byte of the file goes unchecked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace m3 {

inline constexpr std::int64_t kPackVersion = 2;
inline constexpr std::string_view kPackMagic = "M3PACK\r\n";
inline constexpr std::int64_t kPackDataBegin = 2 << 20;
inline constexpr std::int64_t kPackPage = 4096;

// What a tensor of so many bytes takes in the data.
constexpr std::int64_t pack_pages(std::int64_t bytes) {
  return (bytes + kPackPage - 1) / kPackPage * kPackPage;
}

// A file of the checkpoint that was packed. Two that agree in all are taken for the same.
struct PackSource {
  std::string name;  // without its directory
  std::int64_t bytes = 0;
  std::int64_t modified_ns = 0;
  std::uint64_t sample = 0;  // checksum of its first 64 KiB and of pages all over it

  friend bool operator==(const PackSource&, const PackSource&) = default;
};

struct PackedTensor {
  std::string name;
  std::string format;  // Codec::name of what was packed
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t offset = 0;  // from the start of the file
  std::int64_t bytes = 0;
  std::uint64_t checksum = 0;
};

struct PackTable {
  std::string layout;  // Backend::packed_layout()
  std::vector<PackSource> sources;
  std::vector<PackedTensor> tensors;
};

// The bytes of the table.
std::string pack_table_bytes(const PackTable& table);

// The table, checked: sizes are positive, names occur once, and the tensors fill the data from
// kPackDataBegin to `data_end` in order. Memory stays within a small multiple of the bytes.
// Errors: anything else, another version; `where` names the file.
Result<PackTable> parse_pack_table(std::span<const std::byte> bytes, std::int64_t data_end,
                                   std::string_view where);

}  // namespace m3
