// Masks and positions of training batches on whole models (spec: training §2.2, §2.3, §14).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "apps/training_file.h"
#include "base/check.h"
#include "tests/golden_file.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"
#include "train/differentiator.h"
#include "train/training_mask.h"

namespace m3 {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();
constexpr float kMtpScale = 0.1f;

struct Derivatives {
  double loss = 0;  // main and MTP
  std::map<std::string, std::vector<float>> of;
};

Derivatives derivatives(const TinyModel& tiny, std::span<const TrainingSequence> sequences,
                        Keep keep = Keep::kAll) {
  const auto gradients = WeightGradients::create(*tiny.model, {.mtp = true});
  EXPECT_TRUE(gradients) << gradients.error().message;
  auto differentiator =
      Differentiator::create(*tiny.model, *gradients, /*tokens=*/160, kMtpScale, keep);
  EXPECT_TRUE(differentiator) << differentiator.error().message;
  const auto sums = differentiator->add(sequences, scored_labels(sequences));
  EXPECT_TRUE(sums) << sums.error().message;
  Derivatives result;
  result.loss = sums->total(kMtpScale) / static_cast<double>(scored_labels(sequences));
  for (std::size_t i = 0; i < gradients->weights().size(); ++i) {
    const Tensor gradient = gradients->tensors()[i];
    result.of[gradients->weights()[i].name] = {gradient.as<float>(),
                                               gradient.as<float>() + gradient.elements()};
  }
  return result;
}

double length(const Derivatives& all) {
  double sum = 0;
  for (const auto& [name, gradient] : all.of)
    for (const float value : gradient) sum += double{value} * value;
  return std::sqrt(sum);
}

// The first weight whose name ends so.
const std::vector<float>& of_suffix(const Derivatives& all, const std::string& suffix) {
  const auto at = std::ranges::find_if(
      all.of, [&](const auto& entry) { return entry.first.ends_with(suffix); });
  M3_CHECK(at != all.of.end(), "no weight is called ...{}", suffix);
  return at->second;
}

// |a - b| / |b|, over all weights.
double distance(const Derivatives& a, const Derivatives& b) {
  Derivatives difference = a;
  for (auto& [name, gradient] : difference.of)
    for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] -= b.of.at(name)[i];
  return length(difference) / length(b);
}

// Two documents.
std::vector<TrainingSequence> documents() {
  const GoldenFile golden("train-gradients");
  return {{golden.ints("ids.0"), golden.ints("labels.0")},
          {golden.ints("ids.1"), golden.ints("labels.1")}};
}

// Documents one behind the other, in rows that see what `sees` says of two rows of one document.
template <typename Sees>
TrainingSequence packed(const std::vector<TrainingSequence>& sequences, const Sees& sees) {
  TrainingSequence pack;
  std::vector<std::size_t> document;
  for (std::size_t d = 0; d < sequences.size(); ++d)
    for (std::size_t t = 0; t < sequences[d].ids.size(); ++t) {
      pack.ids.push_back(sequences[d].ids[t]);
      pack.labels.push_back(sequences[d].labels[t]);
      pack.positions.push_back(static_cast<std::int32_t>(t));
      document.push_back(d);
    }
  for (std::size_t row = 0; row < document.size(); ++row)
    for (std::size_t t = 0; t < document.size(); ++t)
      pack.bias.push_back(document[row] == document[t] && sees(row, t) ? 0 : kHidden);
  return pack;
}

class Masks : public testing::TestWithParam<Platform> {
 protected:
  bool is_reference() const { return GetParam().backend == "reference"; }
  TinyModel tiny(const std::string& name) const {
    return TinyModel(tiny_model_directory(name), GetParam(), /*threads=*/2);
  }
  // Between two ways of computing the same; on cpu other roundings to bfloat16.
  double allowed() const { return is_reference() ? 1e-5 : 0.03; }
};

// Kernels that look at a mask give what those give that need none: the same picks, too.
TEST_P(Masks, OfWhatIsBeforeARowAreNone) {
  const TinyModel model = tiny("train");
  std::vector<TrainingSequence> plain = {documents()[0]};
  const auto masked = packed(plain, [](std::size_t row, std::size_t t) { return t <= row; });
  const Derivatives without = derivatives(model, plain), with = derivatives(model, {&masked, 1});
  EXPECT_NEAR(with.loss, without.loss, (is_reference() ? 1e-6 : 1e-2) * without.loss);
  EXPECT_LE(distance(with, without), is_reference() ? 1e-5 : 0.2);
}

// Spec, training §14, row 6: packed or apart, where every block is chosen anyway. MTP modules see
// across the border of a pack that is one sequence, so they are left out.
TEST_P(Masks, KeepPackedDocumentsApart) {
  const TinyModel model = tiny("train-smooth");
  const auto apart = documents();
  const auto pack = packed(apart, [](std::size_t row, std::size_t t) { return t <= row; });
  const auto gradients = WeightGradients::create(*model.model, {});
  const auto run = [&](std::span<const TrainingSequence> sequences) {
    auto differentiator = Differentiator::create(*model.model, *gradients, 160, 0);
    Derivatives result{differentiator->add(sequences, scored_labels(sequences))->main, {}};
    for (std::size_t i = 0; i < gradients->weights().size(); ++i) {
      const Tensor gradient = gradients->tensors()[i];
      result.of[gradients->weights()[i].name] = {gradient.as<float>(),
                                                 gradient.as<float>() + gradient.elements()};
      std::fill_n(gradient.as<float>(), gradient.elements(), 0.0f);
    }
    return result;
  };
  const Derivatives together = run({&pack, 1}), expected = run(apart);
  EXPECT_NEAR(together.loss, expected.loss, (is_reference() ? 1e-6 : 2e-3) * expected.loss);
  EXPECT_LE(distance(together, expected), is_reference() ? 1e-4 : 0.05);
}

// Spec, training §14, row 5, where a mask stays behind: rows see a prefix whole.
TEST_P(Masks, PaddingChangesNothing) {
  const TinyModel model = tiny("train");
  const TrainingSequence document = documents()[0];
  const auto tokens = document.ids.size(), padded_tokens = tokens + 9;
  const auto sees = [](std::size_t row, std::size_t t) { return t <= row || t < 6; };
  const auto padded_by = [&](std::size_t left) {
    TrainingSequence padded;
    padded.ids.assign(padded_tokens, 3);
    padded.labels.assign(padded_tokens, kNotScored);
    std::ranges::copy(document.ids, padded.ids.begin() + static_cast<std::ptrdiff_t>(left));
    std::ranges::copy(document.labels, padded.labels.begin() + static_cast<std::ptrdiff_t>(left));
    std::vector<bool> attends(padded_tokens * padded_tokens, false);
    for (std::size_t row = 0; row < tokens; ++row)
      for (std::size_t t = 0; t < tokens; ++t)
        attends[(left + row) * padded_tokens + left + t] = sees(row, t);
    const auto parts =
        apply_mask(padded, boolean_mask(attends, static_cast<std::int64_t>(padded_tokens)));
    EXPECT_TRUE(parts) << parts.error().message;
    return parts->at(0);
  };
  const TrainingSequence right = padded_by(0), left = padded_by(9);
  const TrainingSequence own = packed({document}, sees);
  const Derivatives expected = derivatives(model, {&own, 1});
  for (const TrainingSequence& padded : {right, left}) {
    const Derivatives ours = derivatives(model, {&padded, 1});
    EXPECT_EQ(ours.loss, expected.loss);
    EXPECT_EQ(ours.of, expected.of);
  }
}

// Spec, training §2.2: no NaN, wherever it could come from; neither if layers are computed again.
TEST_P(Masks, ARowThatSeesNothingIsNoNaN) {
  const TinyModel model = tiny("train");
  TrainingSequence blind = packed({documents()[0]}, [](std::size_t row, std::size_t t) {
    return row % 5 != 2 && (t <= row || t % 7 == 0);
  });
  const Derivatives ours = derivatives(model, {&blind, 1});
  EXPECT_TRUE(std::isfinite(ours.loss));
  EXPECT_TRUE(std::isfinite(length(ours)));
  EXPECT_GT(length(ours), 0);
  EXPECT_EQ(derivatives(model, {&blind, 1}, Keep::kInputs).of, ours.of);
}

// The loss changes along the derivative as the derivative says, with all that a batch may have: a
// mask that adds, a row that sees nothing, rows that see what comes later, any positions.
TEST_P(Masks, AddToScoresAsTheDerivativeSays) {
  const TinyModel model = tiny("train-smooth");
  TrainingSequence s = packed({documents()[0]}, [](std::size_t row, std::size_t t) {
    return row != 4 && (t <= row || t % 3 == 0);
  });
  for (std::size_t i = 0; i < s.bias.size(); ++i)
    if (s.bias[i] == 0) s.bias[i] = static_cast<float>(std::sin(static_cast<double>(i)));
  for (std::size_t t = 0; t < s.positions.size(); ++t)
    s.positions[t] = static_cast<std::int32_t>(t * 37 % 50);
  const Derivatives ours = derivatives(model, {&s, 1});
  for (const std::int64_t layer : {0, 1}) {
    const Tensor& norm =
        model.model->weights().layers[static_cast<std::size_t>(layer)].attention_norm;
    const auto& gradient = of_suffix(ours, fmt::format("layers.{}.input_layernorm.weight", layer));
    double squares = 0;
    for (const float g : gradient) squares += double{g} * g;
    const double size = std::sqrt(squares);
    const std::vector<float> before(norm.as<float>(), norm.as<float>() + norm.elements());
    const auto loss_at = [&](double step) {
      for (std::size_t i = 0; i < gradient.size(); ++i)
        norm.as<float>()[i] = before[i] + static_cast<float>(step * gradient[i] / size);
      const double loss = derivatives(model, {&s, 1}).loss;
      std::ranges::copy(before, norm.as<float>());
      return loss;
    };
    const double step = is_reference() ? 0.01 : 0.2;
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    EXPECT_NEAR(slope, size, (is_reference() ? 5e-3 : 0.15) * size) << layer;
  }
}

// Positions turn queries and keys and do nothing else: only their differences count.
TEST_P(Masks, PositionsFeedRotationsAlone) {
  const TinyModel model = tiny("train-smooth");
  std::vector<TrainingSequence> plain = documents(), same = plain, moved = plain, other = plain;
  for (std::size_t t = 0; t < plain[1].ids.size(); ++t) {
    same[1].positions.push_back(static_cast<std::int32_t>(t));
    moved[1].positions.push_back(static_cast<std::int32_t>(t + 5));
    other[1].positions.push_back(static_cast<std::int32_t>(3 * t));
  }
  const Derivatives expected = derivatives(model, plain);
  EXPECT_EQ(derivatives(model, same).of, expected.of);
  const Derivatives shifted = derivatives(model, moved);
  EXPECT_NEAR(shifted.loss, expected.loss, (is_reference() ? 1e-5 : 1e-2) * expected.loss);
  EXPECT_LE(distance(shifted, expected), is_reference() ? 1e-4 : 0.05);
  EXPECT_GT(distance(derivatives(model, other), expected), is_reference() ? 1e-3 : 0.01);
}

INSTANTIATE_TEST_SUITE_P(Platforms, Masks, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

// ------------------------------------------------------------------------ as files have them

Config nano_config() {
  const auto config = load_config(nano());
  EXPECT_TRUE(config) << config.error().message;
  return *config;
}

class MaskFile {
 public:
  Result<std::vector<TrainingSequence>> read(const std::string& sequences,
                                             const std::string& more = "") const {
    return read_training_batch(
        work_.write("batch.json", "{\"sequences\": [" + sequences + "]" + more + "}"), config_);
  }

 private:
  TemporaryDirectory work_;
  Config config_ = nano_config();
};

const std::string kThree = R"("ids": [1, 2, 3], "labels": [2, 3, -100])";

TEST(MaskFile, HoldsTheFormsOfTrainers) {
  const MaskFile file;
  const auto count = [&](const std::string& mask) {
    const auto read = file.read("{" + kThree + R"(, "attention_mask": )" + mask + "}");
    EXPECT_TRUE(read) << read.error().message;
    return read ? read->size() : 0;
  };
  EXPECT_EQ(count("[1, 1, 1]"), 1);
  EXPECT_EQ(count("[true, true, true]"), 1);
  EXPECT_EQ(count("[1, 2, 2]"), 2);
  EXPECT_EQ(count("[[[[true, false, false], [true, true, false], [false, false, true]]]]"), 2);
  EXPECT_EQ(count(R"([[[[0.0, "-inf", -1e30], [0.5, 0.0, "-inf"], [0.0, 0.0, 0.0]]]])"), 1);
  const auto moved = file.read("{" + kThree + R"(, "position_ids": [7, 0, 2147483647]})");
  ASSERT_TRUE(moved) << moved.error().message;
  EXPECT_EQ(moved->at(0).positions, (std::vector<std::int32_t>{7, 0, 2147483647}));
}

TEST(MaskFile, MayHoldOneMaskForAll) {
  const MaskFile file;
  const std::string two = "{" + kThree + "}, {" + kThree + "}";
  const std::string square = "[[[true, false, false], [false, true, false], [false, true, true]]]";
  const auto shared = file.read(two, R"(, "attention_mask": [)" + square + "]");
  ASSERT_TRUE(shared) << shared.error().message;
  EXPECT_EQ(shared->size(), 4);
  const auto each = file.read(two, R"(, "attention_mask": [[1, 1, 2], [1, 1, 1]])");
  ASSERT_TRUE(each) << each.error().message;
  EXPECT_EQ(each->size(), 3);
}

TEST(MaskFile, SaysWhatIsWrong) {
  const MaskFile file;
  const auto refused = [&](const std::string& of_sequence, const std::vector<std::string>& words,
                           const std::string& more = "") {
    const auto read = file.read("{" + kThree + of_sequence + "}", more);
    ASSERT_FALSE(read) << of_sequence << more;
    for (const std::string& word : words)
      EXPECT_NE(read.error().message.find(word), std::string::npos) << read.error().message;
  };
  refused(R"(, "position_ids": [0, 1])", {"sequence 1", "3 ids", "2 \"position_ids\""});
  refused(R"(, "position_ids": [0, -1, 2])", {"position_ids", "-1", "0 to 2147483647"});
  refused(R"(, "position_ids": [0, 1, 2147483648])", {"2147483648"});
  refused(R"(, "attention_mask": [1, 1])", {"sequence 1", "[2]", "[3] or [1, 1, 3, 3]"});
  refused(R"(, "attention_mask": [[[[true, true, true]]]])", {"[1, 1, 1, 3]", "[1, 1, 3, 3]"});
  refused(R"(, "attention_mask": [1, 1, -2])", {"-2", "padding"});
  refused(R"(, "attention_mask": [0, 0, 0])", {"all of the 3 tokens are padding"});
  refused(R"(, "attention_mask": [1, 0, 1])", {"token 1 is padding", "label 3"});
  refused(R"(, "attention_mask": [[[[0, 1, 1], [0, 0, 1], [0, 0, 0]]]])",
          {"true or false", "-inf"});
  refused(R"(, "attention_mask": [[[[0.0, 0.0, 0.0], [0.0, 0.0], [0.0, 0.0, 0.0]]]])",
          {"rectangular", "[1, 1, 3, 3]"});
  refused("", {"[1, 2]", "[1, 3]"}, R"(, "attention_mask": [[1, 1]])");
  refused(R"(, "attention_mask": [1, 1, 1])", {"beside the batch's"},
          R"(, "attention_mask": [[1, 1, 1]])");
}

}  // namespace
}  // namespace m3
