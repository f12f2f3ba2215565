// EAGLE3 draft models: the layer against plain loops, and files that are not what they claim.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/file.h"
#include "base/random.h"
#include "checkpoint/safetensors.h"
#include "model/eagle3_checkpoint.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

using Values = std::vector<double>;

Values times(const Linear& linear, const Values& x) {
  const Matrix& w = linear.weight;
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  Values y;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    w.codec->decode(w, r, 0, w.cols, row.data());
    y.push_back(std::inner_product(x.begin(), x.end(), row.begin(), 0.0));
  }
  return y;
}

Values norm(const Values& x, const Tensor& less_one, double eps) {
  const double squares = std::inner_product(x.begin(), x.end(), x.begin(), 0.0);
  Values y = x;
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i] *=
        (1.0 + less_one.as<float>()[i]) / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  return y;
}

Values plus(Values x, const Values& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  return x;
}

// Every head whole, by pairs (i, i + half).
void rotate(Values& heads, std::size_t dim, double theta, double position) {
  const std::size_t half = dim / 2;
  for (std::size_t head = 0; head < heads.size(); head += dim)
    for (std::size_t i = 0; i < half; ++i) {
      const double angle =
          position * std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      double &a = heads[head + i], &b = heads[head + i + half];
      const double first = a * std::cos(angle) - b * std::sin(angle);
      b = b * std::cos(angle) + a * std::sin(angle);
      a = first;
    }
}

// The layer of spec: text-model §6, a row at a time.
class PlainEagle3 {
 public:
  explicit PlainEagle3(const Eagle3& model) : w_(model.weights()), c_(model.config().layer) {}

  // The next features; `logits` of the row.
  Values row(const Values& features, std::int32_t id, Values& logits) {
    Values x = norm(embedding(id), w_.embedding_norm, c_.norm_eps);
    const Values hidden = norm(features, w_.hidden_norm, c_.norm_eps);
    x.insert(x.end(), hidden.begin(), hidden.end());
    const Values y = plus(features, times(w_.o, attended(x)));
    const Values n = norm(y, w_.ffn_norm, c_.norm_eps);
    Values inner = times(w_.gate, n);
    const Values up = times(w_.up, n);
    for (std::size_t i = 0; i < inner.size(); ++i) inner[i] *= up[i] / (1 + std::exp(-inner[i]));
    Values z = plus(y, times(w_.down, inner));
    logits = times(w_.head, norm(z, w_.final_norm, c_.norm_eps));
    return z;
  }

 private:
  Values embedding(std::int32_t id) const {
    std::vector<float> row(static_cast<std::size_t>(c_.hidden));
    w_.embedding.codec->decode(w_.embedding, id, 0, c_.hidden, row.data());
    return {row.begin(), row.end()};
  }
  Values attended(const Values& x) {
    const auto dim = static_cast<std::size_t>(c_.head_dim);
    const auto position = static_cast<double>(keys_.size());
    Values q = times(w_.q, x), k = times(w_.k, x), out;
    rotate(q, dim, c_.rope_theta, position);
    rotate(k, dim, c_.rope_theta, position);
    keys_.push_back(k);
    values_.push_back(times(w_.v, x));
    for (std::size_t head = 0; head < q.size() / dim; ++head) {
      const std::size_t at = head / (q.size() / k.size()) * dim;
      Values sum(dim), weights;
      for (const Values& key : keys_)
        weights.push_back(std::exp(std::inner_product(key.begin() + at, key.begin() + at + dim,
                                                      q.begin() + head * dim, 0.0) /
                                   std::sqrt(static_cast<double>(dim))));
      const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (std::size_t j = 0; j < weights.size(); ++j)
        for (std::size_t i = 0; i < dim; ++i) sum[i] += weights[j] / total * values_[j][at + i];
      out.insert(out.end(), sum.begin(), sum.end());
    }
    return out;
  }

  const Eagle3Weights& w_;
  const Config& c_;
  std::vector<Values> keys_, values_;
};

class Eagle3OnNano : public testing::Test {
 protected:
  Eagle3OnNano() { EXPECT_TRUE(synth_eagle3_nano(directory_.path(), 5)); }

  Result<std::unique_ptr<Eagle3>> load(const std::string& directory) {
    const Model& model = *tiny_.model;
    return load_eagle3(directory, model.config(), model.weights(), model.backend());
  }

  // The sentence with which the draft model is refused after `damage` to its tensors.
  std::string refusal(const std::function<void(std::vector<NamedTensor>&)>& damage) {
    const auto file = SafetensorsFile::open(directory_.path() + "/model.safetensors");
    std::vector<NamedTensor> tensors;
    for (const TensorInfo& info : (*file)->tensors())
      tensors.push_back({info.name, (*file)->tensor(info)});
    damage(tensors);
    TemporaryDirectory damaged;
    std::filesystem::copy_file(directory_.path() + "/config.json", damaged.path() + "/config.json");
    EXPECT_TRUE(write_safetensors(damaged.path() + "/model.safetensors", tensors));
    const auto loaded = load(damaged.path());
    return loaded ? "" : loaded.error().message;
  }

  // The sentence with which a config is refused in which `from` says `to`.
  std::string refusal(const std::string& from, const std::string& to) {
    std::string config = *read_text_file(directory_.path() + "/config.json");
    config.replace(config.find(from), from.size(), to);
    TemporaryDirectory damaged;
    damaged.write("config.json", config);
    std::filesystem::copy_file(directory_.path() + "/model.safetensors",
                               damaged.path() + "/model.safetensors");
    const auto loaded = load(damaged.path());
    return loaded ? "" : loaded.error().message;
  }

  TinyModel tiny_{tiny_model_directory("nano"), {"reference", ""}, 1};
  TemporaryDirectory directory_;
};

void fill(const Tensor& t, std::uint64_t stream) {
  for (std::int64_t i = 0; i < t.elements(); ++i)
    t.as<float>()[i] =
        static_cast<float>(2 * uniform_at(9, stream, static_cast<std::uint64_t>(i)) - 1);
}

void expect_near(const Tensor& row, const Values& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(row.as<float>()[i], expected[i], 2e-4) << i;
}

// 20 rows of three taps over two pages, then a row that goes on from its own output.
TEST_F(Eagle3OnNano, EqualsThePlainLoops) {
  constexpr std::int64_t kRows = 20;
  const auto draft = load(directory_.path());
  ASSERT_TRUE(draft) << draft.error().message;
  const Eagle3& model = **draft;
  const std::int64_t hidden = model.config().target_hidden;
  auto cache = model.make_cache(2);
  ASSERT_TRUE(cache);
  Eagle3Arena arena(model.config(), kRows, kRows);
  Buffer memory(3 * kRows * hidden * 4);
  fill(memory.tensor(DType::kF32, {3 * kRows * hidden}), 1);
  const Tensor all = memory.tensor(DType::kF32, {3, kRows, hidden});
  const auto tap = [&](std::int64_t i) { return all.rows(i, i + 1).reshape({kRows, hidden}); };
  const Tensor taps[] = {tap(0), tap(1), tap(2)};
  std::vector<std::int32_t> ids, sources;
  for (std::int32_t row = 0; row < kRows; ++row) {
    ids.push_back(row * 37 + 5);
    sources.push_back(kRows - 1 - row);
  }
  const std::vector<std::int32_t> pages = {1, 0}, next = {77}, last = {kRows - 1};
  Batch batch, one;
  batch.add_sequence(ids, 0, pages, /*all_outputs=*/true);
  model.fuse(taps, sources, arena);
  const Eagle3Outputs outputs = model.forward(batch, *cache, arena);

  PlainEagle3 plain(model);
  Values features, logits;
  for (std::int64_t row = 0; row < kRows; ++row) {
    Values joined;
    for (const Tensor& t : taps) {
      const float* values = t.row<float>(sources[static_cast<std::size_t>(row)]);
      joined.insert(joined.end(), values, values + hidden);
    }
    features =
        plain.row(times(model.weights().fuse, joined), ids[static_cast<std::size_t>(row)], logits);
    expect_near(outputs.logits.rows(row, row + 1), logits);
    expect_near(outputs.hidden.rows(row, row + 1), features);
  }
  one.add_sequence(next, kRows, pages, /*all_outputs=*/true);
  model.carry_on(last, arena);
  const Eagle3Outputs drafted = model.forward(one, *cache, arena);
  features = plain.row(features, 77, logits);
  expect_near(drafted.logits, logits);
  expect_near(drafted.hidden, features);
}

Tensor& named(std::vector<NamedTensor>& tensors, const std::string& name) {
  return std::ranges::find(tensors, name, &NamedTensor::name)->tensor;
}

TEST_F(Eagle3OnNano, RefusesDamagedTensors) {
  EXPECT_EQ(refusal([](auto&) {}), "");
  const auto has = [](const std::string& message, const std::string& word) {
    EXPECT_NE(message.find(word), std::string::npos) << "'" << word << "' in: " << message;
  };
  has(refusal(
          [](auto& t) { std::erase_if(t, [](const auto& n) { return n.name == "fc.weight"; }); }),
      "fc.weight");
  has(refusal([](auto& t) {
        t.push_back({"midlayer.self_attn.q_proj.bias", t[2].tensor});
      }),
      "q_proj.bias");
  has(refusal([](auto& t) { named(t, "norm.weight") = named(t, "fc.weight"); }), "norm.weight");
  has(refusal([](auto& t) { named(t, "d2t") = named(t, "d2t").rows(0, 1000); }), "d2t");
  has(refusal([](auto& t) { std::erase_if(t, [](const auto& n) { return n.name == "d2t"; }); }),
      "d2t");
  std::vector<std::int64_t> far(1024, 0), back(1024, 0), near(1024, 0);
  far[1023] = 4096 - 1023;
  back[5] = -6;
  for (auto* map : {&far, &back})
    has(refusal([&](auto& t) { named(t, "d2t") = Tensor(map->data(), DType::kI64, {1024}); }),
        "vocabulary");
  has(refusal([&](auto& t) { named(t, "d2t") = Tensor(near.data(), DType::kI64, {1024}); }),
      "disagree");
}

TEST_F(Eagle3OnNano, RefusesConfigsOfOtherModels) {
  const auto has = [](const std::string& message, const std::string& word) {
    EXPECT_NE(message.find(word), std::string::npos) << "'" << word << "' in: " << message;
  };
  has(refusal("\"vocab_size\": 4096", "\"vocab_size\": 4097"), "another model");
  has(refusal("\"silu\"", "\"gelu\""), "hidden_act");
  has(refusal("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"), "multiple");
  has(refusal("[1, 2, 4]", "[1, 2, 5]"), "eagle_aux_hidden_state_layer_ids");
  has(refusal("[1, 2, 4]", "[]"), "eagle_aux_hidden_state_layer_ids");
  has(refusal("[1, 2, 4]", "[1, 2]"), "fc.weight");
  has(refusal("\"hidden_size\": 128", "\"hidden_size\": 99999999999"), "hidden_size");
  has(refusal("\"draft_vocab_size\": 1024", "\"draft_vocab_size\": 5000"), "draft_vocab_size");
  has(refusal("\"head_dim\": 32", "\"attention_bias\": true"), "attention_bias");
  has(refusal("{\n", "[\n"), "JSON");
}

}  // namespace
}  // namespace m3
