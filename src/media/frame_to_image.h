// Decoded frames, in whatever form a codec has, as RGB.
#pragma once

#include "media/image.h"
#include "media/libav.h"

namespace m3 {

// Errors: more than `pixels_max` pixels; `where` names the clip. Sides of zero are not told yet.
Status check_frame_size(std::int64_t width, std::int64_t height, std::string_view where,
                        std::int64_t pixels_max);

class FrameToImage {
 public:
  // By the colour matrix and range that the frame names, else BT.601 and limited range. Errors: a
  // frame too large, or of a kind that has no RGB; `where` names the clip.
  Result<Image> convert(const AVFrame& frame, std::string_view where, std::int64_t pixels_max);

 private:
  libav::Owner<SwsContext> converter_;
  libav::Owner<AVFrame> rgb_;
};

}  // namespace m3
