// One picture or clip as a part of a message, with the settings that a client may put beside it
// (spec: vision §3.7).
#pragma once

#include "input/media_input.h"

namespace m3 {

// Errors: `pixels` is not a cap of the long side, a multiple of 28 from 150 to 3,584.
Status check_long_side(std::int64_t pixels);

// Reads an "image" or "video" part. Its address is {"image_url": {"url": U}}, {"image_url": U},
// {"url": U}, {"path": U}, and the same of "image", "video_url" and "video". Beside the address or
// in the object that holds it may stand:
//  - max_long_side_pixel: a cap in place of the limits of `options`;
//  - detail: "low" and "high" are caps of 504 and 2,016 pixels where there is no other; "default"
//    and "auto" leave `options`;
//  - of a clip, fps in place of `fps`, and max_frames: more are thinned out evenly.
// Errors: no address, a setting that is none of these values, or those of read_image() and
// read_video().
Result<MediaInput> read_media_part(const Json& part, double fps, PreprocessOptions options,
                                   const AddressRule& rule = {});

}  // namespace m3
