#include "text/media_prompt.h"

#include "text/control_strings.h"

namespace m3 {
namespace {

using Kind = MediaShape::Kind;

// The media of one kind, and how many placeholders asked for one.
class Supply {
 public:
  Supply(std::span<const MediaShape> media, Kind kind) {
    for (const MediaShape& item : media)
      if (item.kind == kind) items_.push_back(&item);
  }
  // Null when there is none left.
  const MediaShape* next() { return named_++ < items_.size() ? items_[named_ - 1] : nullptr; }
  std::size_t named() const { return named_; }
  std::size_t given() const { return items_.size(); }

 private:
  std::vector<const MediaShape*> items_;
  std::size_t named_ = 0;
};

Result<TokenId> id_of(std::string_view control, const Tokenizer& tokenizer) {
  if (const auto id = tokenizer.id_of(control)) return *id;
  return fail("the tokenizer has no token {}, which pictures and clips need", control);
}

// Writes what media become.
class Expander {
 public:
  static Result<Expander> create(const Tokenizer& tokenizer) {
    Expander e(tokenizer);
    M3_TRY(e.image_, id_of(control::kImage, tokenizer));
    M3_TRY(e.video_, id_of(control::kVideo, tokenizer));
    M3_TRY(e.begin_, id_of(control::kImageBegin, tokenizer));
    M3_TRY(e.end_, id_of(control::kImageEnd, tokenizer));
    return e;
  }

  Status add(const MediaShape& media, std::vector<TokenId>& out) const {
    for (std::int64_t g = 0; g < media.groups; ++g) {
      if (!media.seconds.empty()) {
        const auto time =
            fmt::format("]<]{:.1f} seconds[>[", media.seconds[static_cast<std::size_t>(g)]);
        M3_TRY(const auto ids, tokenizer_.encode(time, Tokenizer::ControlTokens::kPlain));
        out.insert(out.end(), ids.begin(), ids.end());
      }
      out.push_back(begin_);
      out.insert(out.end(), static_cast<std::size_t>(media.tokens_per_group),
                 media.kind == Kind::kImage ? image_ : video_);
      out.push_back(end_);
    }
    return {};
  }

  bool is_placeholder(TokenId id) const { return id == image_ || id == video_; }
  Kind kind(TokenId id) const { return id == image_ ? Kind::kImage : Kind::kVideo; }

 private:
  explicit Expander(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  const Tokenizer& tokenizer_;
  TokenId image_ = 0, video_ = 0, begin_ = 0, end_ = 0;
};

}  // namespace

Result<std::vector<TokenId>> expand_media(std::span<const TokenId> ids,
                                          std::span<const MediaShape> media,
                                          const Tokenizer& tokenizer) {
  std::vector<TokenId> out;
  const Result<Expander> expander = Expander::create(tokenizer);
  if (!expander && media.empty()) return std::vector<TokenId>(ids.begin(), ids.end());
  if (!expander) return tl::unexpected(expander.error());
  Supply images(media, Kind::kImage), videos(media, Kind::kVideo);
  for (const TokenId id : ids) {
    if (!expander->is_placeholder(id)) {
      out.push_back(id);
      continue;
    }
    const MediaShape* item = (expander->kind(id) == Kind::kImage ? images : videos).next();
    if (item != nullptr) M3_TRY_STATUS(expander->add(*item, out));
  }
  if (images.named() != images.given() || videos.named() != videos.given())
    return fail(
        "the text has {} image and {} video placeholders, but {} images and {} videos were given",
        images.named(), videos.named(), images.given(), videos.given());
  return out;
}

}  // namespace m3
