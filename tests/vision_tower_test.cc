// Pictures and clips through the vision tower, against the official model and against themselves
// (spec: vision §6, §7).
#include <gtest/gtest.h>

#include <cctype>
#include <nlohmann/json.hpp>

#include "apps/logits_run.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/media_encoder.h"
#include "model/synth.h"
#include "tests/golden_pixels.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

class Vision : public testing::TestWithParam<Platform> {
 protected:
  using Values = std::vector<float>;

  Values encode(const Tensor& rows, const std::vector<MediaGrid>& grids) const {
    const Config& config = tiny_.model->config();
    const VisionTower tower(config, *tiny_.model->weights().vision, *tiny_.backend);
    const std::int64_t tokens = rows.dim(0) / 4;
    Values values(static_cast<std::size_t>(tokens * config.hidden));
    tower.encode(rows, grids, {values.data(), DType::kF32, {tokens, config.hidden}});
    return values;
  }
  bool exact() const { return GetParam().backend == "reference"; }
  void expect_golden(const Values& ours, const Tensor& golden) const {
    if (exact()) {
      EXPECT_LE(worst_difference(ours, golden), 2e-4);
    } else {
      EXPECT_GE(worst_cosine(ours, golden), 0.9995);
    }
  }

  TinyModel tiny_{tiny_model_directory("nano"), GetParam(), 2};
};

std::string platform_name(const testing::TestParamInfo<Platform>& info) {
  std::string name = info.param.name();
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, Vision, testing::ValuesIn(platforms()), platform_name);

TEST_P(Vision, FeaturesAreTheOfficialModels) {
  for (const char* name : {"nano-vision-three", "nano-vision-clip"}) {
    SCOPED_TRACE(name);
    const GoldenFile golden(name);
    const Pixels pixels = pixels_of(golden);
    expect_golden(encode(pixels.rows, pixels.grids), golden.at("features"));
  }
}

TEST_P(Vision, PicturesInOneCallEqualEachAlone) {
  const Pixels pixels = pixels_of(GoldenFile("nano-vision-three"));
  Values alone;
  for (std::size_t i = 0; i < pixels.grids.size(); ++i) {
    const std::int64_t first = pixels.first_row(i), rows = pixels.grids[i].rows();
    const Values one = encode(pixels.rows.rows(first, first + rows), {pixels.grids[i]});
    alone.insert(alone.end(), one.begin(), one.end());
  }
  EXPECT_EQ(encode(pixels.rows, pixels.grids), alone);
}

TEST_P(Vision, AClipOfFiveGroupsIsFourAndOne) {
  const Pixels pixels = pixels_of(GoldenFile("nano-vision-clip"));
  ASSERT_EQ(pixels.grids.size(), 1u);
  const MediaGrid clip = pixels.grids[0];
  ASSERT_EQ(clip.t, 5);
  const Values cut = encode(pixels.rows, {{4, clip.h, clip.w}, {1, clip.h, clip.w}});
  EXPECT_EQ(encode(pixels.rows, {clip}), cut);
}

TEST_P(Vision, TheOrderOfBlocksMatters) {
  const Pixels pixels = pixels_of(GoldenFile("nano-vision-three"));
  const std::int64_t rows = pixels.grids[0].rows();
  const Tensor picture = pixels.rows.rows(0, rows);
  const Values before = encode(picture, {pixels.grids[0]});
  float* first = picture.row<float>(0);
  std::swap_ranges(first, picture.row<float>(4), picture.row<float>(4));  // blocks 0 and 1
  const Values after = encode(picture, {pixels.grids[0]});
  const auto width = static_cast<std::ptrdiff_t>(tiny_.model->config().hidden);
  EXPECT_NE(before, after);
  EXPECT_NE(Values(before.begin(), before.begin() + width),
            Values(after.begin() + width, after.begin() + 2 * width));
}

TEST_P(Vision, LogitsAroundTwoPictures) {
  const GoldenFile golden("nano-two-pictures");
  const Pixels pixels = pixels_of(golden);
  const Config& config = tiny_.model->config();
  MediaEncoder encoder(*tiny_.model);
  std::vector<std::shared_ptr<const EncodedMedia>> media;
  for (std::size_t i = 0; i < pixels.grids.size(); ++i) {
    const std::int64_t first = pixels.first_row(i), rows = pixels.grids[i].rows();
    media.push_back(encoder.encode(
        {pixels.rows.rows(first, first + rows), pixels.grids[i], config.image_token}));
  }
  const auto ids = golden.ints("ids");
  const auto logits = [&](std::int64_t chunk) {
    auto run = run_logits(
        *tiny_.model,
        {.sequences = {ids}, .chunk = chunk, .media = {*SplicePlan::create(ids, media, config)}});
    EXPECT_TRUE(run) << (run ? "" : run.error().message);
    for (const NamedTensor& t : (*run)->tensors())
      if (t.name == "logits")
        return Values(t.tensor.as<float>(), t.tensor.as<float>() + t.tensor.elements());
    return Values();
  };
  const Values whole = logits(0);
  Values picked;
  for (const std::int32_t row : golden.ints("rows"))
    for (const std::int32_t column : golden.ints("columns"))
      picked.push_back(whole[static_cast<std::size_t>(row * config.vocab + column)]);
  if (exact()) {
    EXPECT_LE(worst_difference(picked, golden.at("logits")), 2e-4);
  } else {
    EXPECT_GE(median_cosine(picked, golden.at("logits")), 0.999);  // experts of a row may flip
  }
  for (const std::int64_t chunk : {1, 7}) EXPECT_EQ(whole, logits(chunk)) << "chunk " << chunk;
}

TEST_P(Vision, APictureIsEncodedOnce) {
  const Pixels pixels = pixels_of(GoldenFile("nano-vision-three"));
  MediaEncoder encoder(*tiny_.model);
  const std::int64_t first = pixels.grids[0].rows(), second = pixels.grids[1].rows();
  const PixelItem one{pixels.rows.rows(0, first), pixels.grids[0], 5};
  const PixelItem other{pixels.rows.rows(first, first + second), pixels.grids[1], 5};
  const auto features = encoder.encode(one);
  EXPECT_NE(encoder.encode(other)->hash, features->hash);
  EXPECT_EQ(encoder.encode(one), features);
  EXPECT_EQ(encoder.encoded(), 2);
  MediaEncoder forgetful(*tiny_.model, /*cache_bytes=*/1);
  forgetful.encode(one);
  forgetful.encode(one);
  EXPECT_EQ(forgetful.encoded(), 2);
}

TEST_P(Vision, EncodingTellsHowFarItIsAndCanBeStopped) {
  const Pixels pixels = pixels_of(GoldenFile("nano-vision-three"));
  MediaEncoder encoder(*tiny_.model);
  const std::int64_t first = pixels.grids[0].rows(), second = pixels.grids[1].rows();
  const std::vector<PixelItem> items{{pixels.rows.rows(0, first), pixels.grids[0], 5},
                                     {pixels.rows.rows(first, first + second), pixels.grids[1], 5}};
  std::vector<std::int64_t> seen;
  bool stop = false;
  const EncodeWatch watch{.progress =
                              [&](std::int64_t done, std::int64_t total) {
                                EXPECT_EQ(total, (first + second) / 4);
                                seen.push_back(done);
                              },
                          .cancelled = [&] { return stop && seen.size() == 2; }};
  EXPECT_TRUE(encoder.encode_all(items, watch).has_value());
  EXPECT_TRUE(std::ranges::is_sorted(seen));
  EXPECT_EQ(seen.back(), (first + second) / 4);
  EXPECT_GT(seen.size(), 2u * items.size());

  seen.clear();
  stop = true;
  MediaEncoder stopped(*tiny_.model);
  EXPECT_FALSE(stopped.encode_all(items, watch).has_value());
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_EQ(stopped.encoded(), 0);  // nothing half-done is kept
}

// ---------------------------------------------------------------------------------- other towers

// What a config may say otherwise than nano does.
struct OtherTower {
  const char* what;
  const char* top;
  const char* vision;
};

const OtherTower kOtherTowers[] = {
    {"no biases", R"({"multimodal_projector_bias": false, "patch_merge_bias": false})", "{}"},
    {"heads too narrow to rotate", "{}", R"({"hidden_size": 16, "num_attention_heads": 4})"},
    {"one odd head", "{}", R"({"hidden_size": 74, "num_attention_heads": 1})"},
    {"segments of one group", R"({"vision_segment_max_frames": 1})",
     R"({"vision_segment_max_frames": 1})"},
    {"other patches", R"({"projector_hidden_size": 40})",
     R"({"patch_size": 6, "intermediate_size": 33,
         "img_token_compression_config": {"image_token_compression_method": "patch_merge",
                                          "spatial_merge_size": 3, "temporal_patch_size": 1}})"}};

TEST(OtherTowers, EveryPlatformAgreesWithTheReference) {
  for (const OtherTower& other : kOtherTowers) {
    SCOPED_TRACE(other.what);
    const TemporaryDirectory work;
    auto config = nlohmann::json::parse(
        *read_text_file(std::string(M3_SOURCE_DIR) + "/tests/data/models/nano/config.json"));
    config.update(nlohmann::json::parse(other.top));
    config["vision_config"].update(nlohmann::json::parse(other.vision));
    SynthOptions options{.directory = work.path() + "/model", .seed = 3};
    options.config_json = config.dump();
    const Status written = synth_checkpoint(options);
    ASSERT_TRUE(written) << written.error().message;

    Tensor expected;
    Buffer memory;
    std::vector<float> pixels, features;
    for (const Platform& platform : platforms()) {
      const TinyModel tiny(options.directory, platform, 2);
      const Config& c = tiny.model->config();
      const std::int64_t merge = c.vision->spatial_merge, columns = pixel_row_size(*c.vision);
      const std::vector<MediaGrid> grids = {{3, 2 * merge, merge}, {1, merge, 3 * merge}};
      const std::int64_t rows = grids[0].rows() + grids[1].rows();
      const std::int64_t tokens = rows / (merge * merge);
      pixels.resize(static_cast<std::size_t>(rows * columns));
      for (std::size_t i = 0; i < pixels.size(); ++i)
        pixels[i] = static_cast<float>(2 * uniform_at(1, 2, i) - 1);
      features.assign(static_cast<std::size_t>(tokens * c.hidden), 0);
      const VisionTower tower(c, *tiny.model->weights().vision, *tiny.backend);
      tower.encode({pixels.data(), DType::kF32, {rows, columns}}, grids,
                   {features.data(), DType::kF32, {tokens, c.hidden}});
      if (platform.backend == "reference") {
        memory = Buffer(tokens * c.hidden * 4);
        expected = memory.tensor(DType::kF32, {tokens, c.hidden});
        std::copy(features.begin(), features.end(), expected.as<float>());
      }
      EXPECT_GE(worst_cosine(features, expected), 0.9995) << platform.name();
    }
  }
}

}  // namespace
}  // namespace m3
