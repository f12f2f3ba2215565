// Pictures and clips on the command line: `m3 vision`, and what a user shows to a model.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

const std::string kModel = M3_SOURCE_DIR "/tests/data/models/nano";
const std::string kMedia = M3_SOURCE_DIR "/tests/data/media/";

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const char* name) {
  const TensorInfo* info = file.find(name);
  EXPECT_NE(info, nullptr) << name;
  if (info == nullptr) return {};
  const Tensor tensor = file.tensor(*info);
  return {tensor.as<T>(), tensor.as<T>() + tensor.elements()};
}

TEST(Vision, SeveralPicturesMakeOneFile) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/rows.safetensors";
  const Outcome outcome = run_m3("vision " + kModel + " --image " + kMedia + "smooth.png --image " +
                                 kMedia + "turned.jpg --rows-only --out " + out);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto file = SafetensorsFile::open(out);
  ASSERT_TRUE(file) << file.error().message;
  // 12 x 8 becomes 84 x 56 and 8 x 12 becomes 56 x 84.
  EXPECT_EQ(values_of<std::int64_t>(**file, "grid_thw"),
            (std::vector<std::int64_t>{1, 4, 6, 1, 6, 4}));
  EXPECT_EQ((*file)->find("pixel_values")->shape, (std::vector<std::int64_t>{48, 1176}));
  EXPECT_EQ((*file)->find("kept"), nullptr);
}

TEST(Vision, AClipTellsItsFrames) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/rows.safetensors";
  const Outcome outcome = run_m3("vision " + kModel + " --video " + kMedia +
                                 "clip.mkv --fps 2 --rows-only --out " + out);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto file = SafetensorsFile::open(out);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(values_of<std::int32_t>(**file, "kept"), (std::vector<std::int32_t>{0, 3, 6, 9}));
  EXPECT_EQ(values_of<std::int64_t>(**file, "grid_thw"), (std::vector<std::int64_t>{2, 4, 6}));
}

TEST(Vision, WhatIsNotSeenOfAClipIsSaid) {
  const TemporaryDirectory work;
  const Outcome outcome = run_m3("vision " + kModel + " --video " + kMedia +
                                 "long.mkv --rows-only --out " + work.path() + "/rows");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("long.mkv: only the first 300 s"), std::string::npos) << outcome.err;
}

TEST(Vision, MistakesAreSentences) {
  const TemporaryDirectory work;
  const std::string out = " --rows-only --out " + work.path() + "/out";
  const auto refused = [&](const std::string& arguments, const std::string& word) {
    const Outcome outcome = run_m3("vision " + arguments + out);
    EXPECT_TRUE(outcome.status == 1 || outcome.status == 2) << arguments << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in: " << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(work.path() + "/out"));
  };
  const std::string picture = kMedia + "smooth.png", clip = kMedia + "clip.mkv";
  refused(kModel, "--image");
  refused(kModel + " --image " + picture + " --video " + clip, "--image");
  refused(kModel + " --image " + picture + " --fps 2", "--video");
  refused(kModel + " --image /nowhere.png", "/nowhere.png");
  refused(kModel + " --image " + work.write("empty.png", ""), "empty.png");
  refused(kModel + " --image " + clip, "PNG, JPEG, WebP or GIF");
  refused(kModel + " --video " + picture, "MKV");
  refused(kModel + " --video " + clip + " --fps 0", "frames per second");
  refused(M3_SOURCE_DIR "/tests/data/models/flat --image " + picture, "vision_config");
  refused(work.path() + " --image " + picture, "config.json");
}

// ------------------------------------------------------------------------------ shown to a model

const std::string kPicture = kMedia + "smooth.png";

std::string nano() {
  return tiny_model_directory("nano");
}

nlohmann::json generate(const std::string& arguments) {
  const Outcome outcome =
      run_m3("generate " + nano() + " --max-tokens 4 --seed 3 --logprobs 1 --json " + arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.status == 0 ? nlohmann::json::parse(outcome.out) : nlohmann::json();
}

void expect_sentence(const std::string& arguments, const std::vector<std::string>& words,
                     const std::string& input = "") {
  const Outcome outcome = run_m3(arguments, input);
  EXPECT_TRUE(outcome.status == 1 || outcome.status == 2) << arguments << "\n" << outcome.err;
  for (const std::string& word : words)
    EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in: " << outcome.err;
  EXPECT_LT(outcome.err.size(), 1000u);
}

TEST(Shown, FeaturesOfRowsAreThoseOfThePicture) {
  const TemporaryDirectory work;
  const std::string rows = work.path() + "/rows", one = work.path() + "/one",
                    other = work.path() + "/other";
  ASSERT_EQ(
      run_m3("vision " + nano() + " --image " + kPicture + " --rows-only --out " + rows).status, 0);
  ASSERT_EQ(run_m3("vision " + nano() + " --rows " + rows + " --out " + one).status, 0);
  ASSERT_EQ(run_m3("vision " + nano() + " --image " + kPicture + " --out " + other).status, 0);
  EXPECT_EQ(*read_text_file(one), *read_text_file(other));
  expect_sentence("vision " + nano() + " --rows " + kPicture + " --out " + one, {"smooth.png"});
}

TEST(Shown, APictureAddsItsTokensAndChangesTheAnswer) {
  const auto plain = generate("--prompt What?");
  const auto seen = generate("--prompt What? --image " + kPicture);
  // 84 x 56 pixels are 6 tokens, and two stand around them.
  EXPECT_EQ(seen["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"].get<int>() + 8);
  // Nobody trained these weights, so the next ids may agree; their probabilities do not.
  EXPECT_NE(seen["logprobs"], plain["logprobs"]);
  const auto other = generate("--prompt What? --image " + kMedia + "turned.jpg");
  EXPECT_EQ(other["usage"]["prompt_tokens"], seen["usage"]["prompt_tokens"]);
  EXPECT_NE(other["logprobs"], seen["logprobs"]);
}

TEST(Shown, MessagesHoldPathsAndDataAddresses) {
  const TemporaryDirectory work;
  const std::string encoded = work.path() + "/encoded";
  ASSERT_EQ(std::system(("base64 " + kPicture + " > " + encoded).c_str()), 0);
  const auto ids_of = [&](const std::string& url) {
    nlohmann::json part = {{"type", "image_url"}};
    part["image_url"]["url"] = url;
    nlohmann::json message = {{"role", "user"}};
    message["content"] = {part, {{"type", "text"}, {"text", "What?"}}};
    const std::string file = work.write("m.json", nlohmann::json::array({message}).dump());
    return generate("--messages " + file)["ids"];
  };
  const auto expected = generate("--prompt What? --image " + kPicture)["ids"];
  EXPECT_EQ(ids_of(kPicture), expected);
  EXPECT_EQ(ids_of("data:image/jpeg;base64," + *read_text_file(encoded)), expected);
}

TEST(Shown, AChatKeepsThePicture) {
  const Outcome outcome =
      run_m3("chat " + nano() + " --max-tokens 3 --seed 1",
             "/image " + kPicture + "\nWhat?\n/image /nowhere.png\nAnd now?\n/video " + kMedia +
                 "clip.mkv\nMoving?\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("/nowhere.png"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.out.find("> Moving?"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.err.find("placeholders"), std::string::npos) << outcome.err;
}

TEST(Shown, APlaceholderInTheTextIsText) {
  const auto spelled = generate("--prompt ']<]image[>['");
  EXPECT_GT(spelled["usage"]["prompt_tokens"], 4);
  const auto both = generate("--prompt ']<]image[>[' --image " + kPicture);
  EXPECT_EQ(both["usage"]["prompt_tokens"], spelled["usage"]["prompt_tokens"].get<int>() + 8);
  // Raw text is taken at its word.
  const auto raw = generate("--raw --prompt 'See ]<]image[>[.' --image " + kPicture);
  EXPECT_GT(raw["usage"]["prompt_tokens"], 8);
}

TEST(Shown, CountsThatDiffer) {
  const std::string base = "generate " + nano() + " --max-tokens 1 --raw --prompt ";
  expect_sentence(base + "']<]image[>['", {"1 image", "0 images"});
  expect_sentence(base + "'No place' --image " + kPicture, {"0 image", "1 images"});
  const TemporaryDirectory work;
  const std::string rows = work.path() + "/rows";
  ASSERT_EQ(
      run_m3("vision " + nano() + " --image " + kPicture + " --rows-only --out " + rows).status, 0);
  const std::string ids = work.write("ids.json", "[1, 4057, 4057, 2]");
  expect_sentence("generate " + nano() + " --ids-file " + ids + " --rows " + rows,
                  {"2 image placeholders", "6 embeddings"});
}

TEST(Shown, ModelsThatDoNotSee) {
  const std::string flat = tiny_model_directory("flat");
  const TemporaryDirectory work;
  const std::string text = work.write("text", "]<]image[>[");
  expect_sentence("vision " + flat + " --image " + kPicture + " --out " + work.path() + "/o",
                  {"vision_config"});
  expect_sentence("generate " + nano() + " --language-model-only --prompt x --image " + kPicture,
                  {"--language-model-only leaves out the vision tower"});
  expect_sentence("vision " + nano() + " --language-model-only --image " + kPicture + " --out " +
                      work.path() + "/o",
                  {"vision tower"});
}

TEST(Shown, OddPictures) {
  const TemporaryDirectory work;
  const std::string base = "generate " + nano() + " --max-tokens 1 --prompt x --image ";
  expect_sentence(base + work.write("empty.png", ""), {"empty.png"});
  expect_sentence(base + "https://example.org/a.png", {"is not fetched"});
  expect_sentence(base + "'data:image/png;base64,!!'", {"base64"});
}

}  // namespace
}  // namespace m3
