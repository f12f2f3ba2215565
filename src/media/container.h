// The file around a clip's streams: MP4, MOV, MKV, WebM or AVI, in memory.
#pragma once

#include <string_view>

#include "base/result.h"
#include "media/libav.h"

namespace m3 {

class Container {
 public:
  // Reads from `bytes`, which outlive this. Stays where it is.
  explicit Container(std::span<const std::byte> bytes) : file_(bytes) {}

  // Finds the video stream; a cover picture is none. Errors: another format, no video stream that
  // can be decoded, frames of more than `pixels_max` pixels, no frame rate. `where` names the file.
  Status open(std::string_view where, std::int64_t pixels_max);

  const AVStream& video() const { return *video_; }
  const AVCodec& codec() const { return *codec_; }
  // Frames per second on average; above 0 and at most 1,000.
  double fps() const { return fps_; }
  // The display matrix as one of EXIF's eight ways; turns by other angles are left out.
  int orientation() const;
  // The length that the file claims, in s; 0 where it claims none.
  double claimed_seconds() const;

  // The next packet of the video stream. False: there is none.
  bool next(AVPacket& packet);
  // After next() has said false: whether packets are damaged, or end well before claimed_seconds().
  bool is_cut() const;

 private:
  Status choose_video(std::string_view where);
  void note_end_of(const AVPacket& packet);

  libav::MemoryFile file_;
  libav::Owner<AVFormatContext> format_;
  AVStream* video_ = nullptr;
  const AVCodec* codec_ = nullptr;
  double fps_ = 0;
  double packets_end_s_ = 0;  // of all streams: sound may go on after the last frame
  bool damaged_ = false;
};

}  // namespace m3
