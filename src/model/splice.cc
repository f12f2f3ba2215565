#include "model/splice.h"

#include <algorithm>

namespace m3 {
namespace {

// Hands out the rows of all media of one kind, one after the other.
class RowSource {
 public:
  RowSource(const std::vector<std::shared_ptr<const EncodedMedia>>& media, std::int32_t token) {
    for (const auto& item : media)
      if (item->token == token) items_.push_back(item.get());
  }

  std::int64_t total() const {
    std::int64_t sum = 0;
    for (const EncodedMedia* item : items_) sum += item->features.dim(0);
    return sum;
  }
  // The item of the next row; `row` becomes its row there.
  const EncodedMedia& next(std::int64_t& row) {
    while (row_ == items_[item_]->features.dim(0)) {
      ++item_;
      row_ = 0;
    }
    row = row_++;
    return *items_[item_];
  }

 private:
  std::vector<const EncodedMedia*> items_;
  std::size_t item_ = 0;
  std::int64_t row_ = 0;
};

Status check_count(std::span<const std::int32_t> ids, const char* kind, std::int32_t token,
                   const RowSource& rows) {
  const std::int64_t placeholders = token < 0 ? 0 : std::ranges::count(ids, token);
  if (placeholders == rows.total()) return {};
  if (token < 0)
    return fail("config.json has no {}_token_index, so no text can hold {}s", kind, kind);
  return fail(
      "the prompt has {} {} placeholders (id {}), but the {}s given become {} embeddings: give as "
      "many as the text names",
      placeholders, kind, token, kind, rows.total());
}

}  // namespace

Result<SplicePlan> SplicePlan::create(std::span<const std::int32_t> ids,
                                      std::vector<std::shared_ptr<const EncodedMedia>> media,
                                      const Config& config) {
  SplicePlan plan;
  plan.media_ = std::move(media);
  RowSource images(plan.media_, config.image_token), videos(plan.media_, config.video_token);
  M3_TRY_STATUS(check_count(ids, "image", config.image_token, images));
  M3_TRY_STATUS(check_count(ids, "video", config.video_token, videos));
  const EncodedMedia* last = nullptr;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const bool image = ids[i] == config.image_token;
    if (!image && ids[i] != config.video_token) {
      last = nullptr;
      continue;
    }
    std::int64_t row = 0;
    const EncodedMedia& item = (image ? images : videos).next(row);
    if (&item != last)
      plan.runs_.push_back({.slot = static_cast<std::int64_t>(i),
                            .features = item.features.rows(row, row),
                            .hash = item.hash,
                            .item_row = row});
    ++plan.runs_.back().features.shape[0];
    last = &item;
  }
  return plan;
}

void SplicePlan::add_to(Batch& batch, std::int64_t slot, std::int64_t rows,
                        std::int64_t first_row) const {
  for (const Run& run : runs_) {
    const std::int64_t begin = std::max(slot, run.slot);
    const std::int64_t end = std::min(slot + rows, run.slot + run.features.dim(0));
    if (begin < end)
      batch.splices.push_back(
          {first_row + begin - slot, run.features.rows(begin - run.slot, end - run.slot)});
  }
}

void SplicePlan::add_marks(std::int64_t slot, std::int64_t rows,
                           std::vector<std::int64_t>& marks) const {
  for (const Run& run : runs_) {
    const std::int64_t begin = std::max(slot, run.slot);
    const std::int64_t end = std::min(slot + rows, run.slot + run.features.dim(0));
    if (begin < end)
      marks.insert(marks.end(), {begin - slot, end - slot, static_cast<std::int64_t>(run.hash),
                                 run.item_row + begin - run.slot});
  }
}

}  // namespace m3
