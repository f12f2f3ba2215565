// How pictures and clips are prepared for the vision tower.
#pragma once

#include <array>
#include <string>

#include "media/resize.h"

namespace m3 {

// The defaults are the released model's (spec: vision §1.3).
struct PreprocessOptions {
  std::int64_t patch = 14;          // pixels on each side
  std::int64_t merge = 2;           // patches on each side of a block, which becomes one token
  std::int64_t temporal_patch = 2;  // frames of a patch
  std::int64_t image_pixels_min = 3'136;
  std::int64_t image_pixels_max = 451'584;
  std::int64_t video_pixels_min = 3'136;       // of each frame
  std::int64_t video_pixels_max = 602'112;     // of each frame
  std::int64_t clip_pixels_max = 301'056'000;  // of all kept frames, resized (§4.4)
  std::int64_t long_side_max = 0;  // a client's cap in place of the limits above; 0: none (§3.7)
  std::array<float, 3> mean{0.48145466f, 0.4578275f, 0.40821073f};
  std::array<float, 3> std{0.26862954f, 0.26130258f, 0.27577711f};

  // The size at which the model sees a picture or the frames of a clip. Errors: as smart_resize.
  Result<Size> image_size(Size size) const;
  Result<Size> frame_size(Size size) const;
};

// Reads what the model's directory says of preprocessing into `options`. Where they exist:
// preprocessor_config.json, of which `min_pixels` and `max_pixels` limit pictures and `image_mean`
// and `image_std` normalise both kinds; video_preprocessor_config.json, of which `min_pixels` and
// `max_pixels` limit frames. Keys that are missing or null leave the defaults; all others, also
// `size`, are not used. Patch geometry belongs to config.json.
// Errors: not a JSON object, or a value that is no number or out of range.
Status read_preprocess_options(const std::string& directory, PreprocessOptions& options);

}  // namespace m3
