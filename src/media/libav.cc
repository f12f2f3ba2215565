#include "media/libav.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace m3::libav {
namespace {

constexpr int kBufferBytes = 1 << 16;

int read_bytes(void* opaque, std::uint8_t* out, int size) {
  auto& file = *static_cast<MemoryFile*>(opaque);
  const std::size_t left = file.bytes.size() - file.position;
  const std::size_t count = std::min(left, static_cast<std::size_t>(size));
  if (count == 0) return AVERROR_EOF;
  std::memcpy(out, file.bytes.data() + file.position, count);
  file.position += count;
  return static_cast<int>(count);
}

std::int64_t seek(void* opaque, std::int64_t offset, int whence) {
  auto& file = *static_cast<MemoryFile*>(opaque);
  const auto size = static_cast<std::int64_t>(file.bytes.size());
  if (whence & AVSEEK_SIZE) return size;
  const int from = whence & ~AVSEEK_FORCE;
  const std::int64_t begin = from == SEEK_CUR   ? static_cast<std::int64_t>(file.position)
                             : from == SEEK_END ? size
                                                : 0;
  if (offset < -begin || offset > size - begin) return AVERROR(EINVAL);
  file.position = static_cast<std::size_t>(begin + offset);
  return begin + offset;
}

}  // namespace

MemoryFile::MemoryFile(std::span<const std::byte> all) : bytes(all) {
  auto* buffer = static_cast<unsigned char*>(av_malloc(kBufferBytes));
  if (buffer == nullptr) throw std::bad_alloc();
  io.reset(avio_alloc_context(buffer, kBufferBytes, /*write_flag=*/0, this, read_bytes,
                              /*write_packet=*/nullptr, seek));
  if (!io) {
    av_free(buffer);
    throw std::bad_alloc();
  }
}

}  // namespace m3::libav
