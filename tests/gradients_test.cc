// Derivatives of the whole model: the official model's, and our own promises about them.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "engine/media_encoder.h"
#include "tests/golden_pixels.h"
#include "tests/tiny_model.h"
#include "train/differentiator.h"

namespace m3 {
namespace {

constexpr float kMtpScale = 0.1f;
constexpr TrainedParts kTextAndMtp{.mtp = true};

std::vector<TrainingSequence> sequences_of(const GoldenFile& golden) {
  return {{golden.ints("ids.0"), golden.ints("labels.0")},
          {golden.ints("ids.1"), golden.ints("labels.1")}};
}

// What a model makes of some sequences: losses over scored labels, and derivatives by name.
struct Derivatives {
  LossSums losses;
  std::map<std::string, std::vector<float>> of;
};

// `parts` of `model`; sequences one after the other, or together.
Derivatives derivatives(const TinyModel& tiny, const TrainedParts& parts,
                        std::span<const TrainingSequence> sequences, bool together = false,
                        Keep keep = Keep::kAll) {
  const auto gradients = WeightGradients::create(*tiny.model, parts);
  EXPECT_TRUE(gradients) << gradients.error().message;
  auto differentiator =
      Differentiator::create(*tiny.model, *gradients, /*tokens=*/128, kMtpScale, keep);
  EXPECT_TRUE(differentiator) << differentiator.error().message;
  Derivatives result;
  const std::int64_t scored = std::max<std::int64_t>(1, scored_labels(sequences));
  const std::size_t step = together ? sequences.size() : 1;
  for (std::size_t i = 0; i < sequences.size(); i += step) {
    const auto sums = differentiator->add(sequences.subspan(i, step), scored);
    EXPECT_TRUE(sums) << sums.error().message;
    result.losses.main += sums->main / static_cast<double>(scored);
    result.losses.mtp.resize(sums->mtp.size());
    for (std::size_t d = 0; d < sums->mtp.size(); ++d)
      result.losses.mtp[d] += sums->mtp[d] / static_cast<double>(scored);
  }
  for (std::size_t i = 0; i < gradients->weights().size(); ++i) {
    const Tensor gradient = gradients->tensors()[i];
    result.of[gradients->weights()[i].name] = {gradient.as<float>(),
                                               gradient.as<float>() + gradient.elements()};
  }
  return result;
}

TinyModel tiny_model(const std::string& name, const Platform& platform, int threads = 2) {
  return TinyModel(tiny_model_directory(name), platform, threads);
}

double length(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += double{value} * value;
  return std::sqrt(sum);
}

// |ours - golden| over the elements that the golden has, for each tensor and for all together.
struct Distance {
  double worst = 0;  // of a tensor's own length, or of 1e-4 of all
  std::string where;
  double all = 0;  // of the length of all
};

Distance distance(const Derivatives& ours, const GoldenFile& golden) {
  double differences = 0, lengths = 0, whole = 0;
  for (const auto& [name, gradient] : ours.of)
    whole += std::pow(double{golden.at("norm." + name).as<float>()[0]}, 2);
  Distance result;
  for (const auto& [name, gradient] : ours.of) {
    const Tensor want = golden.at("grad." + name);
    const double norm = golden.at("norm." + name).as<float>()[0];
    const auto last = std::ssize(gradient) - 1;
    double difference = std::pow(length(gradient) - norm, 2), size = norm * norm;
    for (std::int64_t i = 0; i < want.elements(); ++i) {
      const double value = want.as<float>()[i];
      const auto at = static_cast<std::size_t>(i * last / (want.elements() - 1));
      difference += std::pow(gradient[at] - value, 2);
      size += value * value;
    }
    differences += difference;
    lengths += size;
    const double relative = std::sqrt(difference) / std::max(norm, 1e-4 * std::sqrt(whole));
    if (relative > result.worst) result.worst = relative, result.where = name;
  }
  result.all = std::sqrt(differences / lengths);
  return result;
}

std::int64_t gradients_in(const GoldenFile& golden) {
  return std::ranges::count_if(
      golden.infos(), [](const TensorInfo& info) { return info.name.starts_with("grad."); });
}

class Gradients : public testing::TestWithParam<Platform> {};

TEST_P(Gradients, AreTheOfficialModels) {
  const bool reference = GetParam().backend == "reference";
  for (const std::string model : {"train-smooth", "train"}) {
    const GoldenFile golden(model + "-gradients");
    const auto ours = derivatives(tiny_model(model, GetParam()), kTextAndMtp, sequences_of(golden));
    EXPECT_EQ(std::ssize(ours.of), gradients_in(golden));
    const bool smooth = model == "train-smooth";
    const double allowed = reference ? 1e-5 : smooth ? 2e-3 : 1e-2;
    EXPECT_NEAR(ours.losses.main, golden.at("loss.main").as<float>()[0],
                allowed * ours.losses.main);
    for (std::size_t d = 0; d < ours.losses.mtp.size(); ++d)
      EXPECT_NEAR(ours.losses.mtp[d], golden.at("loss.mtp").as<float>()[d],
                  allowed * ours.losses.mtp[d]);
    const Distance far = distance(ours, golden);
    if (reference || smooth) {
      EXPECT_LE(far.worst, reference ? 1e-4 : 0.1) << far.where;
    }
    EXPECT_LE(far.all, 0.35) << model;
  }
}

// What the model sees of a sequence with one picture or clip, by the tower as it is now.
TrainingSequence with_media(TrainingSequence sequence, const TinyModel& tiny, const Pixels& pixels,
                            std::int32_t token) {
  auto encoded = MediaEncoder(*tiny.model).encode({pixels.rows, pixels.grids[0], token});
  sequence.media.push_back({pixels.rows, pixels.grids[0], encoded});
  auto plan = SplicePlan::create(sequence.ids, {encoded}, tiny.model->config());
  EXPECT_TRUE(plan) << plan.error().message;
  if (plan) sequence.splices = std::move(*plan);
  return sequence;
}

// A picture in the prompt: its placeholders' embeddings are the tower's, and theirs the derivative.
TEST_P(Gradients, GoThroughAPictureIntoTheTower) {
  const GoldenFile golden("train-picture-gradients");
  const Pixels pixels = pixels_of(golden);
  const TinyModel tiny = tiny_model("train", GetParam());
  const TrainingSequence sequence = with_media({golden.ints("ids.0"), golden.ints("labels.0")},
                                               tiny, pixels, tiny.model->config().image_token);
  const auto ours = derivatives(tiny, {.vision = true}, {&sequence, 1});
  EXPECT_EQ(std::ssize(ours.of), gradients_in(golden));
  const bool reference = GetParam().backend == "reference";
  EXPECT_NEAR(ours.losses.main, golden.at("loss.main").as<float>()[0],
              (reference ? 1e-5 : 1e-2) * ours.losses.main);
  const Distance far = distance(ours, golden);
  if (reference) {
    EXPECT_LE(far.worst, 1e-4) << far.where;
  }
  EXPECT_LE(far.all, 0.35);
}

// The loss changes along the derivative as the derivative says; five groups of frames are a segment
// of four and one of one.
TEST_P(Gradients, GoThroughAClipOfTwoSegments) {
  const Pixels pixels = pixels_of(GoldenFile("nano-vision-clip"));
  ASSERT_EQ(pixels.grids[0].t, 5);
  const TinyModel tiny = tiny_model("train-smooth", GetParam());
  const Config& config = tiny.model->config();
  ASSERT_EQ(config.vision->segment_frames, 4);
  TrainingSequence text;
  for (std::int32_t t = 0; t < 40; ++t)
    text.ids.push_back(t < media_tokens(pixels.grids[0], *config.vision) ? config.video_token
                                                                         : t * 7 % 400);
  for (std::size_t t = 0; t < text.ids.size(); ++t)
    text.labels.push_back(t % 3 == 0 ? static_cast<std::int32_t>(t * 31 % 400) : kNotScored);
  const auto run = [&] {
    const TrainingSequence clip = with_media(text, tiny, pixels, config.video_token);
    return derivatives(tiny, {.text = false, .vision = true}, {&clip, 1});
  };
  const Derivatives ours = run();
  const VisionWeights& tower = *tiny.model->weights().vision;
  const struct {
    Tensor weight;
    std::string name;
  } norms[] = {{tower.pre_norm.weight, "pre_layrnorm.weight"},
               {tower.layers[0].norm1.weight, "encoder.layers.0.layer_norm1.weight"},
               {tower.layers[0].norm2.weight, "encoder.layers.0.layer_norm2.weight"}};
  const bool reference = GetParam().backend == "reference";
  for (const auto& norm : norms) {
    const auto& gradient = ours.of.at("vision_tower.vision_model." + norm.name);
    float* values = norm.weight.as<float>();
    const double size = length(gradient), step = reference ? 0.01 : 0.2;
    const std::vector<float> before(values, values + gradient.size());
    const auto loss_at = [&](double along) {
      for (std::size_t i = 0; i < gradient.size(); ++i)
        values[i] = before[i] + static_cast<float>(along * gradient[i] / size);
      const double loss = run().losses.main;
      std::ranges::copy(before, values);
      return loss;
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    EXPECT_NEAR(slope, size, (reference ? 5e-3 : 0.15) * size) << norm.name;
  }
}

// Sums have one order: the same bits for any number of threads. Documents see themselves alone:
// the same derivatives whether they are computed together or not.
TEST_P(Gradients, DependNeitherOnThreadsNorOnCompany) {
  const GoldenFile golden("train-gradients");
  const auto sequences = sequences_of(golden);
  const auto one = derivatives(tiny_model("train", GetParam(), 1), kTextAndMtp, sequences);
  const auto three = derivatives(tiny_model("train", GetParam(), 3), kTextAndMtp, sequences);
  EXPECT_EQ(one.losses.main, three.losses.main);
  EXPECT_EQ(one.losses.mtp, three.losses.mtp);
  for (const auto& [name, gradient] : one.of) EXPECT_EQ(gradient, three.of.at(name)) << name;
  const auto together = derivatives(tiny_model("train", GetParam()), kTextAndMtp, sequences, true);
  EXPECT_NEAR(one.losses.main, together.losses.main, 1e-5 * together.losses.main);
  ASSERT_EQ(one.losses.mtp.size(), together.losses.mtp.size());
  for (std::size_t d = 0; d < one.losses.mtp.size(); ++d)
    EXPECT_NEAR(one.losses.mtp[d], together.losses.mtp[d], 1e-5 * together.losses.mtp[d]) << d;
  for (const auto& [name, gradient] : one.of) {
    std::vector<float> difference = gradient;
    for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= together.of.at(name)[i];
    EXPECT_LE(length(difference), 1e-5 * length(gradient) + 1e-9) << name;
  }
}

// Layers that keep their inputs alone pass through the very same numbers again.
TEST_P(Gradients, HaveTheSameBitsIfLayersAreComputedAgain) {
  for (const std::string model : {"train-smooth", "train"}) {
    const auto sequences = sequences_of(GoldenFile(model + "-gradients"));
    const TinyModel tiny = tiny_model(model, GetParam());
    const auto kept = derivatives(tiny, kTextAndMtp, sequences, true);
    const auto repeated = derivatives(tiny, kTextAndMtp, sequences, true, Keep::kInputs);
    EXPECT_EQ(kept.losses.main, repeated.losses.main);
    EXPECT_EQ(kept.losses.mtp, repeated.losses.mtp);
    EXPECT_EQ(kept.of, repeated.of);
  }
}

TEST_P(Gradients, OfNothingScoredAreZero) {
  std::vector<TrainingSequence> sequences(1);
  sequences[0].ids.assign(20, 7);
  sequences[0].labels.assign(20, kNotScored);
  const auto ours = derivatives(tiny_model("train", GetParam()), kTextAndMtp, sequences);
  EXPECT_EQ(ours.losses.main, 0);
  for (const auto& [name, gradient] : ours.of) EXPECT_EQ(length(gradient), 0) << name;
}

INSTANTIATE_TEST_SUITE_P(Platforms, Gradients, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

}  // namespace
}  // namespace m3
