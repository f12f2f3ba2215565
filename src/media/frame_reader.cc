#include "media/frame_reader.h"

#include <algorithm>
#include <string>

#include "base/machine.h"
#include "media/container.h"
#include "media/frame_to_image.h"
#include "media/orientation.h"

namespace m3 {
namespace {

constexpr int kFailuresMax = 1000;  // of a decoder in a row, after which it is given up
constexpr int kThreadsMax = 8;      // more do not decode one clip faster

class LibavFrameReader final : public FrameReader {
 public:
  LibavFrameReader(std::span<const std::byte> bytes, std::string_view where,
                   std::int64_t pixels_max)
      : where_(where), pixels_max_(pixels_max), container_(bytes) {}

  Status start() {
    M3_TRY_STATUS(container_.open(where_, pixels_max_));
    const AVStream& video = container_.video();
    const AVCodec& codec = container_.codec();
    decoder_.reset(libav::allocated(avcodec_alloc_context3(&codec)));
    if (avcodec_parameters_to_context(decoder_.get(), video.codecpar) < 0)
      return fail("{} describes its video stream wrongly", where_);
    decoder_->max_pixels = pixels_max_;
    decoder_->thread_count = std::min(available_cores(), kThreadsMax);
    decoder_->pkt_timebase = video.time_base;
    if (avcodec_open2(decoder_.get(), &codec, nullptr) < 0)
      return fail("{} has a video stream that cannot be decoded ({})", where_, codec.name);
    frame_.reset(libav::allocated(av_frame_alloc()));
    packet_.reset(libav::allocated(av_packet_alloc()));
    return {};
  }

  double fps() const override { return container_.fps(); }
  double claimed_seconds() const override { return container_.claimed_seconds(); }
  double seconds() const override { return seconds_; }
  std::int64_t frames_lost() const override { return frames_lost_; }
  bool is_cut() const override { return failures_ > 0 || container_.is_cut(); }

  bool advance() override {
    for (int failures = 0; failures < kFailuresMax;) {
      const int status = avcodec_receive_frame(decoder_.get(), frame_.get());
      if (status >= 0) {
        note_frame();
        return true;
      }
      if (status == AVERROR_EOF) return false;
      if (status != AVERROR(EAGAIN)) {
        ++failures;
        ++failures_;
      } else if (!feed()) {
        return false;
      }
    }
    return false;
  }

  Result<Image> image() override {
    M3_TRY(Image image, to_image_.convert(*frame_, where_, pixels_max_));
    return turn_upright(std::move(image), container_.orientation());
  }

 private:
  // Gives the decoder the next packet, or word that there is none. False: it has had that already.
  bool feed() {
    if (draining_) return false;
    if (container_.next(*packet_)) {
      // What cannot be decoded is passed over.
      if (avcodec_send_packet(decoder_.get(), packet_.get()) < 0) ++failures_;
      av_packet_unref(packet_.get());
      return true;
    }
    draining_ = true;
    return avcodec_send_packet(decoder_.get(), nullptr) >= 0;
  }

  void note_frame() {
    ++frames_;
    frames_lost_ += failures_;
    failures_ = 0;
    const std::int64_t at = frame_->best_effort_timestamp;
    const double begin = at == AV_NOPTS_VALUE
                             ? static_cast<double>(frames_ - 1) / fps()
                             : static_cast<double>(at) * av_q2d(container_.video().time_base);
    seconds_ = std::max(seconds_, begin + 1 / fps());
  }

  std::string where_;
  std::int64_t pixels_max_;
  Container container_;
  libav::Owner<AVCodecContext> decoder_;
  libav::Owner<AVFrame> frame_;
  libav::Owner<AVPacket> packet_;
  FrameToImage to_image_;
  std::int64_t frames_ = 0;
  std::int64_t frames_lost_ = 0;
  std::int64_t failures_ = 0;  // since the last frame
  double seconds_ = 0;
  bool draining_ = false;
};

}  // namespace

Result<std::unique_ptr<FrameReader>> FrameReader::open(std::span<const std::byte> bytes,
                                                       std::string_view where,
                                                       std::int64_t pixels_max) {
  av_log_set_level(AV_LOG_QUIET);  // for the whole process: a library does not print
  if (bytes.empty()) return fail("{} is empty: expected an MP4, MOV, MKV, WebM or AVI clip", where);
  auto reader = std::make_unique<LibavFrameReader>(bytes, where, pixels_max);
  M3_TRY_STATUS(reader->start());
  return reader;
}

}  // namespace m3
