// Which way up a picture was taken, and turning it upright.
#pragma once

#include "media/image.h"

namespace m3 {

// EXIF tag 0x0112: how the stored rows and columns are to be shown. 1 is as stored; 2 to 4 mirror
// or turn by 180 degrees; 5 to 8 exchange rows and columns.
constexpr int kUpright = 1;

// The orientation, 1 to 8, that EXIF bytes ask for: a TIFF header and its first directory, with or
// without "Exif\0\0" before them. kUpright when there is none or the bytes are damaged: a picture
// is not refused for its metadata.
int exif_orientation(std::span<const std::byte> exif);

// The picture as it is to be shown.
Image turn_upright(Image image, int orientation);

}  // namespace m3
