#include "media/frame_reader.h"

#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "base/machine.h"
#include "media/frame_to_image.h"
#include "media/libav.h"
#include "media/orientation.h"

namespace m3 {
namespace {

// FFmpeg reads hundreds of formats, some of which name other files. Clips come in these.
constexpr const char* kFormats = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi";
constexpr double kFpsMax = 1000;
constexpr int kFailuresMax = 1000;  // of a decoder in a row, after which it is given up
constexpr int kThreadsMax = 8;      // more do not decode one clip faster

template <typename T>
T* allocated(T* object) {
  if (object == nullptr) throw std::bad_alloc();
  return object;
}

// The options of one libav call.
class Options {
 public:
  Options() = default;
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;
  ~Options() { av_dict_free(&entries_); }
  void set(const char* key, const std::string& value) {
    if (av_dict_set(&entries_, key, value.c_str(), 0) < 0) throw std::bad_alloc();
  }
  AVDictionary** entries() { return &entries_; }

 private:
  AVDictionary* entries_ = nullptr;
};

// Whatever else a file wants to have opened.
int refuse_to_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) {
  return AVERROR(EACCES);
}

libav::Owner<AVFormatContext> open_format(AVIOContext* io) {
  AVFormatContext* format = allocated(avformat_alloc_context());
  format->pb = io;
  format->flags |= AVFMT_FLAG_CUSTOM_IO;
  format->io_open = refuse_to_open;
  Options options;
  options.set("format_whitelist", kFormats);
  // Frees `format` when it fails.
  if (avformat_open_input(&format, nullptr, nullptr, options.entries()) < 0) return nullptr;
  return libav::Owner<AVFormatContext>(format);
}

// Decodes a little of each stream, to know what the container does not say.
bool probe_streams(AVFormatContext& format, const std::string& pixels_max) {
  std::vector<Options> each(format.nb_streams);
  std::vector<AVDictionary*> entries;
  for (Options& options : each) {
    options.set("max_pixels", pixels_max);
    options.set("threads", "1");
    entries.push_back(*options.entries());
  }
  const bool found = avformat_find_stream_info(&format, entries.data()) >= 0;
  for (std::size_t i = 0; i < each.size(); ++i) *each[i].entries() = entries[i];
  return found;
}

double average_fps(const AVStream& stream) {
  const AVRational average = stream.avg_frame_rate, base = stream.r_frame_rate;
  if (average.num > 0 && average.den > 0) return av_q2d(average);
  return base.num > 0 && base.den > 0 ? av_q2d(base) : 0;
}

// The display matrix as one of EXIF's eight ways; turns by other angles are left out.
int orientation_of(const AVStream& stream) {
  const std::uint8_t* data = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr);
  if (data == nullptr) return kUpright;
  // (x, y) is shown at (a x + c y, b x + d y).
  const auto* matrix = reinterpret_cast<const std::int32_t*>(data);
  const std::int32_t a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
  if (a != 0 && d != 0 && b == 0 && c == 0) return a > 0 ? (d > 0 ? 1 : 4) : (d > 0 ? 2 : 3);
  if (a == 0 && d == 0 && b != 0 && c != 0) return b > 0 ? (c > 0 ? 5 : 6) : (c > 0 ? 8 : 7);
  return kUpright;
}

class LibavFrameReader final : public FrameReader {
 public:
  LibavFrameReader(std::span<const std::byte> bytes, std::string_view where,
                   std::int64_t pixels_max)
      : where_(where), pixels_max_(pixels_max), file_(bytes) {}

  Status start() {
    format_ = open_format(file_.io.get());
    if (!format_)
      return fail("{} cannot be read as a clip: expected a whole MP4, MOV, MKV, WebM or AVI file",
                  where_);
    if (!probe_streams(*format_, std::to_string(pixels_max_)))
      return fail("{} is damaged: its streams cannot be told", where_);
    const AVCodec* codec = nullptr;
    const int index = av_find_best_stream(format_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (index < 0) return fail("{} has no video stream that can be decoded", where_);
    for (unsigned i = 0; i < format_->nb_streams; ++i)
      if (static_cast<int>(i) != index) format_->streams[i]->discard = AVDISCARD_ALL;
    stream_ = format_->streams[index];
    fps_ = average_fps(*stream_);
    if (!(fps_ > 0 && fps_ <= kFpsMax))
      return fail("{} has {} frames per second: expected above 0 and at most {}", where_, fps_,
                  kFpsMax);
    return open_decoder(*codec);
  }

  double fps() const override { return fps_; }

  bool advance() override {
    for (int failures = 0; failures < kFailuresMax;) {
      const int status = avcodec_receive_frame(decoder_.get(), frame_.get());
      if (status >= 0) return true;
      if (status == AVERROR_EOF) return false;
      if (status != AVERROR(EAGAIN)) {
        ++failures;
      } else if (!feed()) {
        return false;
      }
    }
    return false;
  }

  Result<Image> image() override {
    M3_TRY(Image image, to_image_.convert(*frame_, where_, pixels_max_));
    return turn_upright(std::move(image), orientation_of(*stream_));
  }

 private:
  Status open_decoder(const AVCodec& codec) {
    decoder_.reset(allocated(avcodec_alloc_context3(&codec)));
    if (avcodec_parameters_to_context(decoder_.get(), stream_->codecpar) < 0)
      return fail("{} describes its video stream wrongly", where_);
    decoder_->max_pixels = pixels_max_;
    decoder_->thread_count = std::min(available_cores(), kThreadsMax);
    decoder_->pkt_timebase = stream_->time_base;
    if (avcodec_open2(decoder_.get(), &codec, nullptr) < 0)
      return fail("{} has a video stream that cannot be decoded ({})", where_, codec.name);
    frame_.reset(allocated(av_frame_alloc()));
    packet_.reset(allocated(av_packet_alloc()));
    return {};
  }

  // Gives the decoder the next packet, or word that there is none. False: it has had that already.
  bool feed() {
    if (draining_) return false;
    while (av_read_frame(format_.get(), packet_.get()) >= 0) {
      const bool ours = packet_->stream_index == stream_->index;
      // What cannot be decoded is passed over.
      if (ours) avcodec_send_packet(decoder_.get(), packet_.get());
      av_packet_unref(packet_.get());
      if (ours) return true;
    }
    draining_ = true;
    return avcodec_send_packet(decoder_.get(), nullptr) >= 0;
  }

  std::string where_;
  std::int64_t pixels_max_;
  libav::MemoryFile file_;
  libav::Owner<AVFormatContext> format_;
  const AVStream* stream_ = nullptr;
  double fps_ = 0;
  libav::Owner<AVCodecContext> decoder_;
  libav::Owner<AVFrame> frame_;
  libav::Owner<AVPacket> packet_;
  FrameToImage to_image_;
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
