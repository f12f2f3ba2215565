// One test text for every op: all backends and instruction sets against the reference. (Ops around
// heads and caches are in ops_cache_test.cc, worked examples in ops_examples_test.cc, promises of
// equal bits in ops_promises_test.cc.)
//
// Tolerances. The reference sums in double, so it counts as exact. A backend may
// - round to bfloat16 what enters a matrix product (x, weights, q): relative error kBf16 = 2^-8 for
//   each factor, so |error| <= (2 kBf16 + kBf16^2) Σ |x| |w|, less for weights that bfloat16 holds;
// - sum in float32 in any order: |error| <= (terms + a few) kF32 Σ |x| |w|, kF32 = 2^-24;
// - keep everything else (norms, the router's weights and scores, softmax, sums) in float32: a few
//   times kF32 of the magnitudes that are added.
// The Σ |x| |w| of each output is the reference's own product of the absolute values.
#include "backend/op_testing.h"

namespace m3 {
namespace {

using Ops = OpTest;
INSTANTIATE_TEST_SUITE_P(All, Ops, testing::ValuesIn(machines(false)), machine_name);

// |W|, in float32.
Matrix absolute(Arena& arena, const Matrix& w) {
  const Tensor x = arena.floats({w.rows, w.cols});
  for (std::int64_t row = 0; row < w.rows; ++row)
    w.codec->decode(w, row, 0, w.cols, x.row<float>(row));
  return arena.encode(codec_of(Format::kF32), absolute(arena, x));
}

// Error of one product of rounded factors, relative to Σ |x| |w|. A factor of the whole matrix is
// one more rounding of the sum, and one of each weight in the reference.
double product_error(const Codec& codec, std::int64_t terms) {
  const bool exact_weights =
      codec.format != Format::kF32 && codec.format != Format::kF16 && codec.format != Format::kInt8;
  const double factors = exact_weights ? kBf16 : 2 * kBf16 + kBf16 * kBf16;
  return factors + static_cast<double>(terms + 8) * kF32;
}

// The largest magnitude of each block of 32 columns in place of its numbers.
Tensor block_largest(Arena& arena, const Tensor& x) {
  const Tensor out = arena.copy(x);
  const std::int64_t cols = x.dim(1);
  for (std::int64_t row = 0; row < x.dim(0); ++row)
    for (std::int64_t k = 0; k < cols; k += 32) {
      float* block = out.row<float>(row) + k;
      const std::int64_t count = std::min<std::int64_t>(32, cols - k);
      float most = 0;
      for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(block[i]));
      std::fill_n(block, count, most);
    }
  return out;
}

struct LinearShape {
  std::int64_t rows, outputs, cols;
};

std::vector<LinearShape> linear_shapes() {
  std::vector<LinearShape> shapes;
  for (const std::int64_t rows : {1, 2, 5, 33})
    for (const std::int64_t outputs : {1, 3, 17})
      for (const std::int64_t cols : {1, 2, 7, 14, 31, 32, 33, 46, 66, 100, 257})
        shapes.push_back({rows, outputs, cols});
  // Wider than any tile or chunk.
  shapes.push_back({70, 131, 1000});
  shapes.push_back({1, 5, 12293});
  shapes.push_back({7, 259, 4096});
  // Around whole tiles of 16 rows and outputs.
  for (const std::int64_t rows : {15, 16, 17, 32, 40}) shapes.push_back({rows, rows - 1, 64});
  shapes.push_back({200, 40, 33});
  shapes.push_back({17, 16, 6144});
  return shapes;
}

TEST_P(Ops, Linear) {
  std::int64_t shift = 0;
  for (const Codec* codec : codecs()) {
    for (const auto& [rows, outputs, cols] : linear_shapes()) {
      if (!fits(*codec, cols)) continue;
      shift = (shift + 1) % 3;  // weights at any address
      const Tensor x = arena_.random({rows, cols});
      const Linear linear{arena_.random_matrix(*codec, outputs, cols, shift)};
      const Tensor bound =
          run_linear(*reference_, absolute(arena_, x), {absolute(arena_, linear.weight)});
      const double error = product_error(*codec, cols);
      expect_near(run_linear(*backend_, x, linear), run_linear(*reference_, x, linear),
                  on("linear {} [{}, {}] x [{}, {}]", codec->name, outputs, cols, rows, cols),
                  [&](std::int64_t i) { return error * bound.as<float>()[i] + kTiny; });
    }
  }
}

// By how much of its block's largest a number of x may be changed before it meets packed weights:
// rounded to 127ths of it, or to 2^-13 of its power of two.
double block_error(const Codec& codec) {
  if (codec.format == Format::kInt8) return 0.5 / 127;
  return codec.format == Format::kMxfp4 || codec.format == Format::kNvfp4 ? 0x1p-14 : 0;
}

// Weights in the backend's own layout.
TEST_P(Ops, LinearOfPackedWeights) {
  std::int64_t shift = 0;
  for (const Codec* codec : codecs()) {
    for (const auto& [rows, outputs, cols] : linear_shapes()) {
      if (!fits(*codec, cols)) continue;
      shift = (shift + 1) % 3;
      const Tensor x = arena_.random({rows, cols});
      const Linear stored{arena_.random_matrix(*codec, outputs, cols, shift)};
      const Linear packed{arena_.packed(*backend_, stored.weight)};
      if (packed.weight.packed == nullptr) continue;
      const Linear magnitudes{absolute(arena_, stored.weight)};
      const Tensor bound = run_linear(*reference_, absolute(arena_, x), magnitudes);
      const Tensor block_bound = run_linear(*reference_, block_largest(arena_, x), magnitudes);
      const double error = product_error(*codec, cols), of_block = block_error(*codec);
      expect_near(
          run_linear(*backend_, x, packed), run_linear(*reference_, x, stored),
          on("packed linear {} [{}, {}] x [{}, {}]", codec->name, outputs, cols, rows, cols),
          [&](std::int64_t i) {
            return error * bound.as<float>()[i] + of_block * block_bound.as<float>()[i] + kTiny;
          });
    }
  }
}

TEST_P(Ops, LinearWithLowRank) {
  for (const std::int64_t rank : {1, 8, 19}) {
    const std::int64_t rows = 5, outputs = 37, cols = 129;
    const Tensor x = arena_.random({rows, cols});
    LowRank addend{arena_.random({rank, cols}), arena_.random({outputs, rank}), 0.75f};
    const Linear linear{arena_.random_matrix(codec_of(Format::kBF16), outputs, cols), &addend};
    const LowRank magnitudes{absolute(arena_, addend.a), absolute(arena_, addend.b), 0.75f};
    const Tensor bound = run_linear(*reference_, absolute(arena_, x),
                                    {absolute(arena_, linear.weight), &magnitudes});
    const double error = product_error(codec_of(Format::kBF16), cols + rank);
    expect_near(run_linear(*backend_, x, linear), run_linear(*reference_, x, linear),
                on("linear with a low-rank addend of rank {}", rank),
                [&](std::int64_t i) { return error * bound.as<float>()[i]; });
  }
}

TEST_P(Ops, GroupedLinear) {
  for (const Codec* codec : codecs()) {
    for (const std::int64_t tokens : {1, 7, 33}) {
      const std::int64_t count = 6, k = 3, outputs = 17, cols = 100;
      std::vector<Linear> experts, magnitudes;
      for (std::int64_t e = 0; e < count; ++e) {
        experts.push_back({arena_.random_matrix(*codec, outputs, cols)});
        magnitudes.push_back({absolute(arena_, experts.back().weight)});
      }
      // Picks without expert 4, so that one expert has no rows.
      const Tensor picks = arena_.make(DType::kI32, {tokens, k});
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t j = 0; j < k; ++j)
          picks.row<std::int32_t>(t)[j] =
              std::array{0, 1, 2, 3, 5}[static_cast<std::size_t>((t + j) % 5)];
      const Dispatch d = make_dispatch(count, tokens, k);
      reference_->dispatch(picks, d);
      for (const bool gather : {true, false}) {
        const Tensor x = arena_.random({gather ? tokens : tokens * k, cols});
        const auto run = [&](Backend& backend, const Tensor& input,
                             std::span<const Linear> weights) {
          const Tensor out = arena_.floats({tokens * k, outputs});
          const GroupedOutput output{weights, out};
          backend.grouped_linear(input, d, gather, {&output, 1}, {});
          backend.synchronize();
          return out;
        };
        const Tensor bound = run(*reference_, absolute(arena_, x), magnitudes);
        const double error = product_error(*codec, cols);
        expect_near(run(*backend_, x, experts), run(*reference_, x, experts),
                    on("grouped_linear {}, {} tokens, gather {}", codec->name, tokens, gather),
                    [&](std::int64_t i) { return error * bound.as<float>()[i] + kTiny; });
      }
    }
  }
}

// Copies are exact in every format.
TEST_P(Ops, EmbedAndGather) {
  std::int64_t shift = 0;
  for (const Codec* codec : codecs()) {
    for (const std::int64_t hidden : {1, 7, 14, 32, 100, 257}) {
      if (!fits(*codec, hidden)) continue;
      shift = (shift + 1) % 3;
      const Matrix table = arena_.random_matrix(*codec, 11, hidden, shift);
      const Tensor ids = arena_.of<std::int32_t>({6}, {10, 0, 3, -1, 3, 7});
      const Tensor actual = arena_.random({6, hidden}), expected = arena_.random({6, hidden});
      backend_->embed(table, ids, actual);
      backend_->synchronize();
      reference_->embed(table, ids, expected);
      expect_same(actual, expected, on("embed {}, hidden {}", codec->name, hidden));
      expect_same(actual.rows(3, 4), arena_.floats({1, hidden}), on("embed of id -1"));

      const Tensor rows = arena_.of<std::int32_t>({7}, {4, 0, 0, 1, 2, 3, 4});
      const Tensor got = arena_.floats({7, hidden}), wanted = arena_.floats({7, hidden});
      backend_->gather_rows(expected, rows, got);
      backend_->synchronize();
      reference_->gather_rows(expected, rows, wanted);
      expect_same(got, wanted, on("gather_rows, dim {}", hidden));
    }
  }
}

TEST_P(Ops, Concat) {
  for (const auto& [n, m] : {std::pair{1, 1}, {7, 100}, {257, 32}}) {
    const Tensor x = arena_.random({5, n}), y = arena_.random({5, m});
    const Tensor actual = arena_.floats({5, n + m}), expected = arena_.floats({5, n + m});
    backend_->concat(x, y, actual);
    backend_->synchronize();
    reference_->concat(x, y, expected);
    expect_same(actual, expected, on("concat of {} and {}", n, m));
    for (std::int64_t row = 0; row < 5; ++row) {
      const float* both = expected.row<float>(row);
      EXPECT_TRUE(std::equal(both, both + n, x.row<float>(row)));
      EXPECT_TRUE(std::equal(both + n, both + n + m, y.row<float>(row)));
    }
  }
}

TEST_P(Ops, Add) {
  for (const std::int64_t dim : {1, 7, 33, 5000}) {
    const Tensor x = arena_.random({3, dim}), sum = arena_.random({3, dim});
    const Tensor expected = arena_.copy(sum);
    backend_->add(x, sum);
    backend_->synchronize();
    reference_->add(x, expected);
    expect_same(sum, expected, on("add [3, {}]", dim));
  }
}

TEST_P(Ops, RmsNorm) {
  for (const std::int64_t dim : {1, 7, 31, 32, 33, 100, 257, 6144}) {
    for (const float scale : {1.0f, 1e-4f, 300.0f}) {  // 1e-4: eps has a say
      const Tensor x = arena_.random({5, dim}, scale), weight = arena_.random({dim});
      const Tensor expected = arena_.floats({5, dim});
      reference_->rms_norm(x, weight, 1e-6f, expected);
      backend_->rms_norm(x, weight, 1e-6f, x);
      backend_->synchronize();
      // Terms of one sign: half of their number is the error of the mean under the root.
      expect_near(x, expected, on("rms_norm [5, {}], scale {}", dim, scale), [&](std::int64_t i) {
        return static_cast<double>(dim / 2 + 8) * kF32 * std::abs(expected.as<float>()[i]) + kTiny;
      });
    }
  }
}

TEST_P(Ops, SwiGlu) {
  for (const std::int64_t inner : {1, 7, 33, 100, 4099}) {
    const Tensor gate = arena_.random({3, inner}, 30), up = arena_.random({3, inner}, 12);
    const Tensor expected = arena_.floats({3, inner});
    reference_->swiglu(gate, up, {}, expected);
    backend_->swiglu(gate, up, {}, up);
    backend_->synchronize();
    // An error of the exponent's argument, up to alpha * 30, becomes a relative one of sigmoid.
    expect_near(up, expected, on("swiglu [3, {}]", inner), [&](std::int64_t i) {
      return (1.702 * 30 + 8) * kF32 * std::abs(expected.as<float>()[i]) + kTiny;
    });
  }
}

TEST_P(Ops, Route) {
  for (const auto& [experts, k] : {std::pair{6, 3}, {128, 4}, {5, 5}}) {
    for (const std::int64_t hidden : {33, 257, 6144}) {
      for (const bool softmax : {false, true}) {
        const std::int64_t rows = 17;
        const float spread = 4 / std::sqrt(static_cast<float>(hidden));
        const Tensor x = arena_.random_bf16({rows, hidden});
        const Tensor gate = arena_.random({experts, hidden}, spread);
        Router router{arena_.encode(codec_of(Format::kF32), gate),
                      softmax ? Tensor{} : arena_.random({experts}, 0.2f),
                      softmax ? RouterScore::kSoftmax : RouterScore::kSigmoid};
        const Tensor picks = arena_.make(DType::kI32, {rows, k}),
                     weights = arena_.floats({rows, k});
        const Tensor wanted = arena_.make(DType::kI32, {rows, k});
        const Tensor wanted_weights = arena_.floats({rows, k});
        reference_->route(x, router, false, wanted, wanted_weights);
        for (const bool given : {false, true}) {
          if (given) std::memcpy(picks.data, wanted.data, static_cast<std::size_t>(picks.bytes()));
          backend_->route(x, router, given, picks, weights);
          backend_->synchronize();
          const std::string what =
              on("route, {} of {} experts, hidden {}, {}{}", k, experts, hidden,
                 softmax ? "softmax" : "sigmoid", given ? ", picks given" : "");
          expect_same(picks, wanted, what);
          // A logit's error, of Σ |x| |gate| <= hidden * spread, is a relative one of its score;
          // the scores of the others enter through the sum.
          const double error = 4 * (static_cast<double>(hidden) + 8) * kF32 *
                               (static_cast<double>(hidden) * spread) / 8;
          expect_near(weights, wanted_weights, what, [&](std::int64_t) { return error; });
        }
      }
    }
  }
}

// As every product does, so that router and experts read the same row.
TEST_P(Ops, RouteReadsRowsRoundedToBf16) {
  const std::int64_t rows = 17, hidden = 257, experts = 12, k = 4;
  const Tensor x = arena_.random({rows, hidden}), rounded = arena_.copy(x);
  std::transform(x.as<float>(), x.as<float>() + x.elements(), rounded.as<float>(), round_to_bf16);
  const Router router{arena_.encode(codec_of(Format::kF32), arena_.random({experts, hidden}, 0.2f)),
                      arena_.random({experts}, 0.2f)};
  const Tensor picks = arena_.make(DType::kI32, {rows, k}), weights = arena_.floats({rows, k});
  const Tensor wanted = arena_.make(DType::kI32, {rows, k}), wanted_weights = arena_.copy(weights);
  backend_->route(x, router, false, picks, weights);
  backend_->route(rounded, router, false, wanted, wanted_weights);
  backend_->synchronize();
  expect_same(picks, wanted, on("picks of unrounded rows"));
  expect_same(weights, wanted_weights, on("weights of unrounded rows"));
}

TEST_P(Ops, DispatchAndCombine) {
  for (const auto& [tokens, experts, k, hidden] :
       {std::array{1, 4, 4, 1}, {7, 6, 3, 33}, {33, 128, 4, 257}, {300, 5, 2, 100}}) {
    const Tensor picks = arena_.make(DType::kI32, {tokens, k});
    for (std::int32_t t = 0; t < tokens; ++t)
      for (std::int32_t j = 0, first = static_cast<std::int32_t>(arena_.generator().below(experts));
           j < k; ++j)
        picks.row<std::int32_t>(t)[j] = (first + j) % experts;
    const Dispatch d = make_dispatch(experts, tokens, k),
                   wanted = make_dispatch(experts, tokens, k);
    backend_->dispatch(picks, d);
    backend_->synchronize();
    reference_->dispatch(picks, wanted);
    const std::string what =
        on("{} tokens, {} of {} experts, hidden {}", tokens, k, experts, hidden);
    expect_same(d.offsets, wanted.offsets, "dispatch offsets, " + what);
    expect_same(d.rows, wanted.rows, "dispatch rows, " + what);
    expect_same(d.places, wanted.places, "dispatch places, " + what);

    const Tensor y = arena_.random({tokens * k, hidden}), weights = arena_.random({tokens, k});
    const Tensor shared = arena_.random({tokens, hidden});
    for (const Tensor& addend : {shared, Tensor{}}) {
      const Tensor actual = arena_.floats({tokens, hidden});
      const Tensor expected = arena_.floats({tokens, hidden});
      backend_->combine(y, wanted, weights, 2, addend, actual);
      backend_->synchronize();
      reference_->combine(y, wanted, weights, 2, addend, expected);
      // Each of the k products, at most 2, and the shared part, at most 1.
      const double error = (k + 4) * kF32 * (2 * k + 1);
      expect_near(actual, expected, "combine, " + what, [&](std::int64_t) { return error; });
    }
  }
}

}  // namespace
}  // namespace m3
