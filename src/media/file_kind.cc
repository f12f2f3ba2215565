#include "media/file_kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace m3 {
namespace {

using namespace std::string_view_literals;

enum class Belongs { kNowhere, kToPictures, kToClips };

struct Kind {
  std::size_t at;  // offset of the magic
  std::string_view magic;
  std::string_view name;
  Belongs belongs = Belongs::kNowhere;
};

// The first that fits counts.
constexpr std::array kKinds{
    Kind{0, "\x89PNG\r\n\x1a\n"sv, "a PNG picture", Belongs::kToPictures},
    Kind{0, "\xff\xd8\xff"sv, "a JPEG picture", Belongs::kToPictures},
    Kind{0, "GIF8"sv, "a GIF picture", Belongs::kToPictures},
    Kind{8, "WEBP"sv, "a WebP picture", Belongs::kToPictures},
    Kind{8, "AVI "sv, "an AVI clip", Belongs::kToClips},
    Kind{8, "WAVE"sv, "WAV sound"},
    Kind{4, "ftypheic"sv, "a HEIC picture"},
    Kind{4, "ftypheix"sv, "a HEIC picture"},
    Kind{4, "ftyphevc"sv, "a HEIC picture"},
    Kind{4, "ftypmif1"sv, "a HEIF picture"},
    Kind{4, "ftypmsf1"sv, "a HEIF picture"},
    Kind{4, "ftypavif"sv, "an AVIF picture"},
    Kind{4, "ftypavis"sv, "an AVIF picture"},
    Kind{4, "ftypM4A"sv, "M4A sound"},
    Kind{4, "ftypqt"sv, "a MOV clip", Belongs::kToClips},
    Kind{4, "ftyp"sv, "an MP4 clip", Belongs::kToClips},
    Kind{4, "moov"sv, "a MOV clip", Belongs::kToClips},
    Kind{0, "\x1a\x45\xdf\xa3"sv, "an MKV or WebM clip", Belongs::kToClips},
    Kind{0, "BM"sv, "a BMP picture"},
    Kind{0, "II*\0"sv, "a TIFF picture"},
    Kind{0, "MM\0*"sv, "a TIFF picture"},
    Kind{0, "\xff\x0a"sv, "a JPEG XL picture"},
    Kind{4, "JXL "sv, "a JPEG XL picture"},
    Kind{4, "jP  "sv, "a JPEG 2000 picture"},
    Kind{0, "8BPS"sv, "a Photoshop picture"},
    Kind{0, "%PDF"sv, "a PDF document"},
    Kind{0, "PK\3\4"sv, "a ZIP archive"},
    Kind{0, "\x1f\x8b"sv, "a gzip archive"},
    Kind{0, "OggS"sv, "an Ogg file"},
    Kind{0, "FLV\1"sv, "an FLV clip"},
    Kind{0, "ID3"sv, "MP3 sound"},
    Kind{0, "\x30\x26\xb2\x75"sv, "a WMV clip"},
    Kind{0, "\0\0\1\xba"sv, "an MPEG clip"},
    Kind{188, "\x47"sv, "an MPEG transport stream"},
};

char lower(char c) {
  return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

bool is_printable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte >= 0x20 && byte < 0xf8) || c == '\n' || c == '\r' || c == '\t';
  });
}

bool fits(const Kind& kind, std::string_view text) {
  if (kind.at == 8 && !text.starts_with("RIFF")) return false;
  if (kind.at == 188 && !text.starts_with(kind.magic)) return false;
  if (kind.magic.size() < 4 && is_printable(text)) return false;  // "BMW", "ID3 tags" are words
  return text.size() >= kind.at && text.substr(kind.at).starts_with(kind.magic);
}

// `word` is in lower case.
bool holds(std::string_view text, std::string_view word) {
  const auto equal = [](char a, char b) { return lower(a) == b; };
  return std::search(text.begin(), text.end(), word.begin(), word.end(), equal) != text.end();
}

std::string_view kind_of_text(std::string_view text) {
  if (holds(text, "<svg")) return "an SVG drawing";
  if (holds(text, "<html") || holds(text, "<!doctype html")) return "a web page";
  return text.starts_with("<?xml") ? "an XML document" : "text";
}

}  // namespace

std::string kind_of_file(std::span<const std::byte> bytes, MediaUse use) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                              std::min<std::size_t>(bytes.size(), 1024));
  if (text.empty()) return "no bytes";
  const auto* kind = std::ranges::find_if(kKinds, [&](const Kind& k) { return fits(k, text); });
  if (kind != kKinds.end()) {
    if (kind->belongs == Belongs::kToPictures && use == MediaUse::kClip)
      return fmt::format("{}: give it as a picture (--image)", kind->name);
    if (kind->belongs == Belongs::kToClips && use == MediaUse::kPicture)
      return fmt::format("{}: give it as a clip (--video)", kind->name);
    // The right kind and yet unreadable.
    return fmt::format("{}{}", kind->belongs == Belongs::kNowhere ? "" : "what begins as ",
                       kind->name);
  }
  if (is_printable(text)) return std::string(kind_of_text(text));
  std::string found = "a file that starts with the bytes";
  for (const char c : text.substr(0, 4))
    found += fmt::format(" {:02x}", static_cast<unsigned char>(c));
  return found;
}

}  // namespace m3
