// Clips become pixel rows: which frames are kept, and at what size (spec: vision §4).
#pragma once

#include "media/pixel_rows.h"

namespace m3 {

// Frames that may be kept of a second.
constexpr double kFpsMax = 1000;

// What is beyond this of a clip is not seen.
constexpr double kClipSecondsMax = 300;

struct Clip {
  PixelRows rows;
  std::vector<std::int64_t> kept;  // indices of the frames kept, from 0, ascending
  double fps = 0;                  // frames per second of the source: kept[i] / fps is a time in s
  // What is not seen, a sentence each: beyond kClipSecondsMax, missing at the end, or undecodable.
  std::vector<std::string> notes = {};
};

// Frames of 8K film. Decoders hold many frames at once, so this is lower than for pictures.
constexpr std::int64_t kFramePixelsMax = 8192 * 4320;

// The frame to keep after frame `kept` of a source of `source_fps` when `fps` frames per second are
// wanted: max(kept + 1, ceil((kept / source_fps + 1 / fps - 1e-4) * source_fps)) (spec: §4.1).
std::int64_t next_kept_frame(std::int64_t kept, double source_fps, double fps);

// Decodes an MP4, MOV, MKV, WebM or AVI file and samples `fps` frames per second, frame 0 first,
// counting the frames that can be decoded and taking the file's average frame rate. All frames get
// one size, the first one's by options.frame_size(); each is resized as soon as it is decoded.
// Rotation that the file asks for is applied. Nothing but `bytes` is read, whatever the file refers
// to. A clip that is cut or damaged gives the frames that are there, and a note. `where` names the
// source in messages. Errors: an `fps` that is not above 0 and at most 1,000;
// another format, no video stream, no frame that can be decoded, no frame rate; a frame of more
// than `frame_pixels_max` pixels; more kept frames than options.clip_pixels_max allows; a first
// frame that has no size.
Result<Clip> decode_video(std::span<const std::byte> bytes, std::string_view where, double fps,
                          const PreprocessOptions& options,
                          std::int64_t frame_pixels_max = kFramePixelsMax);

}  // namespace m3
