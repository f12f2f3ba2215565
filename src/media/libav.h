// Owners for what FFmpeg's libraries hand out.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>
}

#include <cstddef>
#include <memory>
#include <new>
#include <span>

namespace m3::libav {

struct Free {
  void operator()(AVFormatContext* format) const { avformat_close_input(&format); }
  void operator()(AVCodecContext* decoder) const { avcodec_free_context(&decoder); }
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
  void operator()(SwsContext* converter) const { sws_freeContext(converter); }
  void operator()(AVIOContext* io) const {
    av_freep(&io->buffer);  // FFmpeg may have replaced the one it was given
    avio_context_free(&io);
  }
};

template <typename T>
using Owner = std::unique_ptr<T, Free>;

// What libav allocates is null where memory is out.
template <typename T>
T* allocated(T* object) {
  if (object == nullptr) throw std::bad_alloc();
  return object;
}

// A file in memory, as FFmpeg reads files. Stays where it is while `io` is in use.
struct MemoryFile {
  std::span<const std::byte> bytes;
  std::size_t position = 0;
  Owner<AVIOContext> io;

  explicit MemoryFile(std::span<const std::byte> all);
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
};

}  // namespace m3::libav
