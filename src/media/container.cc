#include "media/container.h"

#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "media/file_kind.h"
#include "media/frame_to_image.h"
#include "media/orientation.h"

namespace m3 {
namespace {

// FFmpeg reads hundreds of formats, some of which name other files. Clips come in these.
constexpr const char* kFormats = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi";
constexpr double kFpsMax = 1000;

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
  AVFormatContext* format = libav::allocated(avformat_alloc_context());
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

struct FrameSize {
  int width = 0;   // pixels
  int height = 0;  // pixels
};

// What the head says of each stream, or 0 (MPEG-4 in MP4). Once a decoder has met a frame above
// its limit, this is 0 for all.
std::vector<FrameSize> frame_sizes(const AVFormatContext& format) {
  std::vector<FrameSize> sizes;
  for (unsigned i = 0; i < format.nb_streams; ++i)
    sizes.push_back({format.streams[i]->codecpar->width, format.streams[i]->codecpar->height});
  return sizes;
}

double average_fps(const AVStream& stream) {
  const AVRational average = stream.avg_frame_rate, base = stream.r_frame_rate;
  if (average.num > 0 && average.den > 0) return av_q2d(average);
  return base.num > 0 && base.den > 0 ? av_q2d(base) : 0;
}

bool is_cover(const AVStream& stream) {
  return (stream.disposition & AV_DISPOSITION_ATTACHED_PIC) != 0;
}

bool is_video(const AVStream& stream) {
  return stream.codecpar->codec_type == AVMEDIA_TYPE_VIDEO && !is_cover(stream);
}

}  // namespace

Status Container::open(std::string_view where, std::int64_t pixels_max) {
  format_ = open_format(file_.io.get());
  if (!format_)
    return fail(
        "{} cannot be read as a clip: expected a whole MP4, MOV, MKV, WebM or AVI file, found {}",
        where, kind_of_file(file_.bytes, MediaUse::kClip));
  const std::vector<FrameSize> sizes = frame_sizes(*format_);
  if (!probe_streams(*format_, std::to_string(pixels_max)))
    return fail("{} is damaged: its streams cannot be told", where);
  M3_TRY_STATUS(choose_video(where));
  const auto index = static_cast<std::size_t>(video_->index);
  if (index < sizes.size())
    M3_TRY_STATUS(check_frame_size(sizes[index].width, sizes[index].height, where, pixels_max));
  fps_ = average_fps(*video_);
  if (!(fps_ > 0 && fps_ <= kFpsMax))
    return fail("{} has {} frames per second: expected above 0 and at most {}", where, fps_,
                kFpsMax);
  return {};
}

Status Container::choose_video(std::string_view where) {
  const std::span<AVStream*> streams(format_->streams, format_->nb_streams);
  // libav's choice first; where that is a cover picture, any other.
  for (int wanted = -1; wanted < std::ssize(streams) && video_ == nullptr; ++wanted) {
    const int index =
        av_find_best_stream(format_.get(), AVMEDIA_TYPE_VIDEO, wanted, -1, &codec_, 0);
    if (index >= 0 && !is_cover(*streams[index])) video_ = streams[index];
  }
  if (video_ == nullptr)
    return fail("{} has no video stream{}", where,
                std::ranges::any_of(streams, [](const AVStream* s) { return is_video(*s); })
                    ? " that can be decoded"
                    : "");
  for (AVStream* stream : streams)
    if (stream != video_ && stream->codecpar->codec_type != AVMEDIA_TYPE_AUDIO)
      stream->discard = AVDISCARD_ALL;
  return {};
}

int Container::orientation() const {
  const std::uint8_t* data = av_stream_get_side_data(video_, AV_PKT_DATA_DISPLAYMATRIX, nullptr);
  if (data == nullptr) return kUpright;
  // (x, y) is shown at (a x + c y, b x + d y).
  const auto* matrix = reinterpret_cast<const std::int32_t*>(data);
  const std::int32_t a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
  if (a != 0 && d != 0 && b == 0 && c == 0) return a > 0 ? (d > 0 ? 1 : 4) : (d > 0 ? 2 : 3);
  if (a == 0 && d == 0 && b != 0 && c != 0) return b > 0 ? (c > 0 ? 5 : 6) : (c > 0 ? 8 : 7);
  return kUpright;
}

double Container::claimed_seconds() const {
  // Of an AVI that is cut, libav makes the length fit; the count in its head stays.
  if (std::string_view(format_->iformat->name) == "avi" && video_->nb_frames > 0)
    return static_cast<double>(video_->nb_frames) / fps_;
  if (format_->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE) return 0;
  if (video_->duration > 0)
    return static_cast<double>(video_->duration) * av_q2d(video_->time_base);
  return format_->duration > 0 ? static_cast<double>(format_->duration) / AV_TIME_BASE : 0;
}

bool Container::next(AVPacket& packet) {
  for (;;) {
    av_packet_unref(&packet);
    const int status = av_read_frame(format_.get(), &packet);
    if (status < 0) {
      damaged_ = damaged_ || status != AVERROR_EOF;
      return false;
    }
    note_end_of(packet);
    // An empty packet is AVI's way to show a frame once more; to a decoder it would be the end.
    if (packet.stream_index != video_->index || packet.size == 0) continue;
    damaged_ = damaged_ || (packet.flags & AV_PKT_FLAG_CORRUPT) != 0;
    return true;
  }
}

void Container::note_end_of(const AVPacket& packet) {
  const AVRational base = format_->streams[packet.stream_index]->time_base;
  const std::int64_t begin = packet.pts != AV_NOPTS_VALUE ? packet.pts : packet.dts;
  if (begin == AV_NOPTS_VALUE) return;
  const double end = static_cast<double>(begin) + static_cast<double>(packet.duration);
  packets_end_s_ = std::max(packets_end_s_, end * av_q2d(base));
}

bool Container::is_cut() const {
  // Tracks of a healthy file end at slightly different times, and the last frame may have no
  // length.
  const double slack_s = 0.5 + 1 / fps_;
  return damaged_ || packets_end_s_ + slack_s < claimed_seconds();
}

}  // namespace m3
