#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "media/image_formats.h"
#include "media/orientation.h"

namespace m3 {
namespace {

struct DeleteDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};
using Demuxer = std::unique_ptr<WebPDemuxer, DeleteDemuxer>;

// The first frame, which is the picture itself where nothing moves.
struct FirstFrame {
  WebPIterator at = {};
  explicit FirstFrame(const WebPDemuxer* demuxer) { WebPDemuxGetFrame(demuxer, 1, &at); }
  ~FirstFrame() { WebPDemuxReleaseIterator(&at); }
  FirstFrame(const FirstFrame&) = delete;
  FirstFrame& operator=(const FirstFrame&) = delete;

  bool lies_in(const Image& canvas) const {
    return at.complete != 0 && at.width > 0 && at.height > 0 && at.x_offset >= 0 &&
           at.y_offset >= 0 && at.x_offset + at.width <= canvas.width &&
           at.y_offset + at.height <= canvas.height;
  }
};

int orientation_of(const WebPDemuxer* demuxer) {
  WebPChunkIterator chunk = {};
  int orientation = kUpright;
  if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk) != 0)
    orientation = exif_orientation(std::as_bytes(std::span(chunk.chunk.bytes, chunk.chunk.size)));
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

// Lays the frame on the canvas, which is white. False: the frame's bytes are damaged.
bool draw(const WebPIterator& frame, Image& canvas) {
  const std::size_t stride = std::size_t{4} * frame.width;
  std::vector<std::uint8_t> rgba(stride * frame.height);
  if (WebPDecodeRGBAInto(frame.fragment.bytes, frame.fragment.size, rgba.data(), rgba.size(),
                         static_cast<int>(stride)) == nullptr)
    return false;
  flatten_over_white(rgba);
  const std::size_t row_bytes = std::size_t{3} * frame.width;
  for (std::size_t y = 0; y < static_cast<std::size_t>(frame.height); ++y) {
    const std::int64_t row = (frame.y_offset + static_cast<std::int64_t>(y)) * canvas.width;
    std::copy_n(&rgba[y * row_bytes], row_bytes, &canvas.rgb[(row + frame.x_offset) * 3]);
  }
  return true;
}

}  // namespace

Result<Image> decode_webp(const ImageSource& source) {
  const auto damaged = [&] { return fail("{} is a damaged or truncated WebP", source.where); };
  const auto* data = reinterpret_cast<const std::uint8_t*>(source.bytes.data());
  // Before the demuxer, which wants the whole file, so that a mere header is told by its size.
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data, source.bytes.size(), &features) != VP8_STATUS_OK) return damaged();
  M3_TRY_STATUS(check_image_size(features.width, features.height, source));
  const WebPData whole{data, source.bytes.size()};
  const Demuxer demuxer(WebPDemux(&whole));
  if (!demuxer) return damaged();
  Image image{.width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH),
              .height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT)};
  M3_TRY_STATUS(check_image_size(image.width, image.height, source));
  const FirstFrame frame(demuxer.get());
  if (!frame.lies_in(image)) return damaged();
  image.rgb.assign(image.width * image.height * 3, 255);
  if (!draw(frame.at, image)) return damaged();
  return turn_upright(std::move(image), orientation_of(demuxer.get()));
}

}  // namespace m3
