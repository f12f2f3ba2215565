// The frames of a clip, one after the other: FFmpeg's libraries behind a narrow door.
#pragma once

#include <memory>

#include "media/image.h"

namespace m3 {

class FrameReader {
 public:
  // Reads from `bytes`, which outlive this, and from nothing else: no other file, no address, no
  // playlist. Errors: as decode_video (media/video.h), for what the file's head tells.
  static Result<std::unique_ptr<FrameReader>> open(std::span<const std::byte> bytes,
                                                   std::string_view where, std::int64_t pixels_max);
  virtual ~FrameReader() = default;

  // Frames per second on average; above 0 and at most 1,000.
  virtual double fps() const = 0;
  // The length that the file claims, in s; 0 where it claims none.
  virtual double claimed_seconds() const = 0;
  // Goes on to the next frame that can be decoded; packets that cannot be are passed over, as every
  // player does. False: there is none.
  virtual bool advance() = 0;
  // The current frame in RGB, upright. Errors: it is too large, or of a kind that has no RGB.
  virtual Result<Image> image() = 0;

  // When the frames so far end, in s.
  virtual double seconds() const = 0;
  // Frames passed over so far, before the current one.
  virtual std::int64_t frames_lost() const = 0;
  // After advance() has said false: whether frames are missing or damaged after the last one.
  virtual bool is_cut() const = 0;
};

}  // namespace m3
