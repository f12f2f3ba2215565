#include "media/frame_to_image.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace m3 {
namespace {

// Exact sums and no shortcuts, so that the pixels do not depend on the processor.
constexpr int kConversion = SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT;

// What a file says of its colours may be no value of libav's enums: it is read as a number.
template <typename Enum>
int number_of(const Enum& value) {
  static_assert(sizeof(Enum) == sizeof(int));
  int number = 0;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

bool has_full_range(const AVFrame& frame) {
  switch (frame.format) {
    case AV_PIX_FMT_YUVJ411P:
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ444P:
      return true;
    default:
      return number_of(frame.color_range) == AVCOL_RANGE_JPEG;
  }
}

void set_colours(SwsContext* converter, const AVFrame& frame) {
  const int* from = sws_getCoefficients(number_of(frame.colorspace));
  const int* to = sws_getCoefficients(SWS_CS_DEFAULT);
  constexpr int kOne = 1 << 16;
  // Refused for frames that are RGB already: then there is nothing to set.
  sws_setColorspaceDetails(converter, from, has_full_range(frame), to, /*dstRange=*/1, 0, kOne,
                           kOne);
}

// Room for the RGB of a frame of this size. Its rows are longer than the picture's, because
// swscale writes in whole vectors.
AVFrame* make_rgb(int width, int height) {
  AVFrame* rgb = av_frame_alloc();
  if (rgb == nullptr) throw std::bad_alloc();
  rgb->format = AV_PIX_FMT_RGB24;
  rgb->width = width;
  rgb->height = height;
  if (av_frame_get_buffer(rgb, 0) >= 0) return rgb;
  av_frame_free(&rgb);
  throw std::bad_alloc();
}

}  // namespace

Status check_frame_size(std::int64_t width, std::int64_t height, std::string_view where,
                        std::int64_t pixels_max) {
  if (height > 0 && width > pixels_max / height)
    return fail("{} has frames of {} x {} pixels; at most {} pixels are accepted: scale it down",
                where, width, height, pixels_max);
  return {};
}

Result<Image> FrameToImage::convert(const AVFrame& frame, std::string_view where,
                                    std::int64_t pixels_max) {
  const int width = frame.width, height = frame.height;
  if (width <= 0 || height <= 0)
    return fail("{} has a frame of {} x {} pixels, which shows nothing", where, width, height);
  M3_TRY_STATUS(check_frame_size(width, height, where, pixels_max));
  const auto format = static_cast<AVPixelFormat>(frame.format);
  converter_.reset(sws_getCachedContext(converter_.release(), width, height, format, width, height,
                                        AV_PIX_FMT_RGB24, kConversion, nullptr, nullptr, nullptr));
  if (!converter_) return fail("{} has frames that cannot be turned into RGB", where);
  set_colours(converter_.get(), frame);
  if (!rgb_ || rgb_->width != width || rgb_->height != height) rgb_.reset(make_rgb(width, height));
  if (sws_scale(converter_.get(), frame.data, frame.linesize, 0, height, rgb_->data,
                rgb_->linesize) != height)
    return fail("{} has a frame that cannot be turned into RGB", where);
  Image image{.width = width, .height = height, .rgb = {}};
  const std::size_t row_bytes = std::size_t{3} * width;
  image.rgb.resize(row_bytes * height);
  for (int y = 0; y < height; ++y)
    std::copy_n(rgb_->data[0] + std::ptrdiff_t{y} * rgb_->linesize[0], row_bytes,
                &image.rgb[y * row_bytes]);
  return image;
}

}  // namespace m3
