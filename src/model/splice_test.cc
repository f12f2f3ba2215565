#include "model/splice.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

constexpr std::int32_t kImage = 90, kVideo = 91;

Config config() {
  Config c;
  c.hidden = 2;
  c.image_token = kImage;
  c.video_token = kVideo;
  return c;
}

// Row r of item `hash` holds (hash, r).
std::shared_ptr<const EncodedMedia> item(std::int32_t token, std::uint64_t hash,
                                         std::int64_t rows) {
  auto media = std::make_shared<EncodedMedia>();
  media->memory = Buffer(rows * 8);
  media->features = media->memory.tensor(DType::kF32, {rows, 2});
  media->token = token;
  media->hash = hash;
  for (std::int64_t r = 0; r < rows; ++r) {
    media->features.row<float>(r)[0] = static_cast<float>(hash);
    media->features.row<float>(r)[1] = static_cast<float>(r);
  }
  return media;
}

// "slot:item.row" of every spliced row of a step.
std::string spliced(const SplicePlan& plan, std::int64_t slot, std::int64_t rows,
                    std::int64_t first_row) {
  Batch batch;
  plan.add_to(batch, slot, rows, first_row);
  std::string text;
  for (const auto& [first, features] : batch.splices)
    for (std::int64_t r = 0; r < features.dim(0); ++r)
      text +=
          fmt::format("{}:{}.{} ", first + r, features.row<float>(r)[0], features.row<float>(r)[1]);
  return text;
}

TEST(SplicePlan, EachKindTakesItsOwnRowsInOrder) {
  const std::vector<std::int32_t> ids = {1, kImage, kImage, 2, kVideo, kImage, kImage, 3, kVideo};
  const auto plan = SplicePlan::create(
      ids, {item(kImage, 5, 3), item(kVideo, 6, 2), item(kImage, 7, 1)}, config());
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(spliced(*plan, 0, 9, 0), "1:5.0 2:5.1 4:6.0 5:5.2 6:7.0 8:6.1 ");
  // A chunk that begins inside a picture, as the third row of a batch.
  EXPECT_EQ(spliced(*plan, 2, 4, 3), "3:5.1 5:6.0 6:5.2 ");
  EXPECT_EQ(spliced(*plan, 3, 1, 0), "");
}

TEST(SplicePlan, CountsMustAgree) {
  const std::vector<std::int32_t> ids = {kImage, kImage, 4};
  for (const std::int64_t rows : {1, 3}) {
    const auto plan = SplicePlan::create(ids, {item(kImage, 5, rows)}, config());
    ASSERT_FALSE(plan);
    EXPECT_NE(plan.error().message.find("2 image placeholders"), std::string::npos)
        << plan.error().message;
    EXPECT_NE(plan.error().message.find(fmt::format("{} embeddings", rows)), std::string::npos);
  }
  EXPECT_FALSE(SplicePlan::create(ids, {}, config()));
  EXPECT_FALSE(SplicePlan::create(ids, {item(kVideo, 5, 2)}, config()));
}

TEST(SplicePlan, MarksTellWhichMediaSlotsHoldAndWhatOfThem) {
  const std::vector<std::int32_t> ids = {1, kImage, kImage, 2, kImage, kImage};
  const auto marks = [&](std::uint64_t first, std::uint64_t second, std::int64_t slot) {
    const auto plan =
        SplicePlan::create(ids, {item(kImage, first, 2), item(kImage, second, 2)}, config());
    std::vector<std::int64_t> all;
    plan->add_marks(slot, 2, all);
    return all;
  };
  EXPECT_EQ(marks(5, 6, 0), marks(5, 7, 0));
  EXPECT_NE(marks(5, 6, 0), marks(7, 6, 0));
  EXPECT_EQ(marks(5, 6, 4), marks(7, 6, 4));
  EXPECT_NE(marks(5, 6, 4), marks(5, 7, 4));
  // The first row of a picture is not its second, nor at another place of the page.
  EXPECT_NE(marks(5, 6, 1), marks(5, 6, 2));
  EXPECT_NE(marks(5, 5, 3), marks(5, 5, 2));
  std::vector<std::int64_t> none;
  SplicePlan().add_marks(0, 6, none);
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace m3
