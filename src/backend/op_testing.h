// What the tests of ops share: every backend and instruction set of this machine, tensors from a
// seed, and comparisons that say where.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/registry.h"
#include "base/random.h"

namespace m3 {

// One backend with one of its instruction sets.
struct Machine {
  std::string backend;
  std::string isa;
};

inline std::ostream& operator<<(std::ostream& out, const Machine& m) {
  return out << m.backend << (m.isa.empty() ? "" : " ") << m.isa;
}

// All that are usable here; the reference too only if `with_reference`.
inline std::vector<Machine> machines(bool with_reference) {
  std::vector<Machine> all;
  for (const BackendInfo& info : known_backends()) {
    if (!info.absent.empty() || (info.name == "reference" && !with_reference)) continue;
    for (const std::string& isa : info.isas) all.push_back({info.name, isa});
    for (const std::string& isa : info.twins) all.push_back({info.name, isa});
    if (info.isas.empty()) all.push_back({info.name, ""});
  }
  return all;
}

inline std::string machine_name(const testing::TestParamInfo<Machine>& info) {
  std::string name = info.param.backend + "_" + info.param.isa;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

// Uniform numbers in [-1, 1) from a seed (SplitMix64).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() { return mix64(state_ += kGolden); }
  float next() { return static_cast<float>(bits() >> 40) * 0x1p-23f - 1; }
  // In [0, limit).
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(limit));
  }

 private:
  std::uint64_t state_;
};

inline double largest(const Tensor& x) {
  double m = 0;
  for (std::int64_t i = 0; i < x.elements(); ++i)
    m = std::max(m, std::abs(double{x.as<float>()[i]}));
  return m;
}

// Owns the arrays of a test. Each is a heap block of its own size, so that a sanitizer sees a read
// beyond its end.
class Arena {
 public:
  Tensor make(DType dtype, std::initializer_list<std::int64_t> shape) {
    return {bytes(shape_bytes(shape, dtype)), dtype, shape};
  }
  Tensor floats(std::initializer_list<std::int64_t> shape) { return make(DType::kF32, shape); }
  Tensor random(std::initializer_list<std::int64_t> shape, float scale = 1) {
    const Tensor x = floats(shape);
    for (std::int64_t i = 0; i < x.elements(); ++i) x.as<float>()[i] = scale * random_.next();
    return x;
  }
  // Random numbers that bfloat16 holds exactly: no backend has a rounding of them to plead.
  Tensor random_bf16(std::initializer_list<std::int64_t> shape, float scale = 1) {
    const Tensor x = random(shape, scale);
    std::transform(x.as<float>(), x.as<float>() + x.elements(), x.as<float>(), round_to_bf16);
    return x;
  }
  template <typename T>
  Tensor of(std::initializer_list<std::int64_t> shape, const std::vector<T>& values) {
    const Tensor x = make(dtype_of<T>(), shape);
    M3_CHECK(x.elements() == std::ssize(values), "{} values for {}", values.size(), x.describe());
    std::copy(values.begin(), values.end(), x.as<T>());
    return x;
  }
  Tensor copy(const Tensor& x) {
    Tensor other = x;
    other.data = bytes(x.bytes());
    if (x.bytes() > 0) std::memcpy(other.data, x.data, static_cast<std::size_t>(x.bytes()));
    return other;
  }

  // `x` [rows, cols] in a format. The values begin `shift` bytes after an aligned address, as they
  // may in a mapped checkpoint.
  Matrix encode(const Codec& codec, const Tensor& x, std::int64_t shift = 0) {
    Matrix w{&codec, make(codec.values_dtype, {x.dim(0), values_cols(codec, x.dim(1))}), {}};
    w.rows = x.dim(0);
    w.cols = x.dim(1);
    const std::int64_t scales = scale_cols(codec, w.cols);
    if (scales > 0) w.scales = make(codec.scales_dtype, {w.rows, scales});
    if (codec.whole_scale != nullptr) w.scale = codec.whole_scale(static_cast<float>(largest(x)));
    for (std::int64_t row = 0; row < w.rows; ++row)
      codec.encode(x.row<float>(row), w.cols, w.scale,
                   static_cast<std::byte*>(w.values.data) + row * value_row_bytes(codec, w.cols),
                   static_cast<std::byte*>(w.scales.data) + row * scale_row_bytes(codec, w.cols));
    for (Tensor* part : {&w.values, &w.scales}) {
      if (shift == 0 || part->bytes() == 0) continue;
      std::byte* moved = bytes(part->bytes() + shift) + shift;
      std::memcpy(moved, part->data, static_cast<std::size_t>(part->bytes()));
      part->data = moved;
    }
    return w;
  }
  Matrix random_matrix(const Codec& codec, std::int64_t rows, std::int64_t cols,
                       std::int64_t shift = 0) {
    M3_CHECK(fits(codec, cols), "{} cannot hold {} columns", codec.name, cols);
    return encode(codec, random({rows, cols}), shift);
  }

  // The same weight as `backend` packs it, or as it is.
  Matrix packed(Backend& backend, Matrix w) {
    const std::int64_t size = backend.packed_bytes(w);
    if (size == 0) return w;
    packed_.emplace_back(size);
    backend.pack(w, packed_.back().data());
    w.packed = packed_.back().data();
    return w;
  }

  Random& generator() { return random_; }

 private:
  static std::int64_t shape_bytes(std::initializer_list<std::int64_t> shape, DType dtype) {
    return std::accumulate(shape.begin(), shape.end(), dtype_size(dtype), std::multiplies<>());
  }
  std::byte* bytes(std::int64_t count) {
    blocks_.push_back(std::make_unique<std::byte[]>(static_cast<std::size_t>(count)));
    return blocks_.back().get();
  }

  Random random_{1};
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::vector<Buffer> packed_;  // 64-byte aligned
};

// Relative errors of one rounding, from which all tolerances are made.
inline constexpr double kBf16 = 0x1p-8;
inline constexpr double kF32 = 0x1p-24;
inline constexpr double kTiny = 1e-30;  // below it, numbers may be flushed to zero

inline Tensor absolute(Arena& arena, const Tensor& x) {
  const Tensor y = arena.copy(x);
  for (std::int64_t i = 0; i < y.elements(); ++i) y.as<float>()[i] = std::abs(y.as<float>()[i]);
  return y;
}

// |actual[i] - expected[i]| <= bound(i). Says how many are not, and the first of them.
template <typename Bound>
void expect_near(const Tensor& actual, const Tensor& expected, const std::string& what,
                 Bound bound) {
  ASSERT_EQ(actual.elements(), expected.elements()) << what;
  std::int64_t wrong = 0, first = -1;
  for (std::int64_t i = 0; i < actual.elements(); ++i) {
    const double a = actual.as<float>()[i], e = expected.as<float>()[i];
    const bool near = std::abs(a - e) <= bound(i) || a == e || (std::isnan(a) && std::isnan(e));
    if (!near && wrong++ == 0) first = i;
  }
  EXPECT_EQ(wrong, 0) << what << ": element " << first << " of " << actual.describe() << " is "
                      << actual.as<float>()[first] << ", expected " << expected.as<float>()[first]
                      << " ± " << bound(first);
}

inline void expect_same(const Tensor& actual, const Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.describe(), expected.describe()) << what;
  const auto* a = static_cast<const std::byte*>(actual.data);
  const auto* e = static_cast<const std::byte*>(expected.data);
  const auto [at, _] = std::mismatch(a, a + actual.bytes(), e);
  EXPECT_EQ(at - a, actual.bytes())
      << what << ": bits differ first in element " << (at - a) / dtype_size(actual.dtype) << " of "
      << actual.describe();
}

// A backend to test, its pool, and the arrays of the test.
class OpTest : public testing::TestWithParam<Machine> {
 protected:
  static std::unique_ptr<Backend> make(const Machine& machine, ThreadPool& pool) {
    auto backend = make_backend(machine.backend, machine.isa, pool);
    M3_CHECK(backend.has_value(), "{}", backend.error().message);
    return std::move(*backend);
  }
  bool is_reference() const { return GetParam().backend == "reference"; }
  // "linear bf16 [3, 100] on cpu avx2", for messages.
  template <typename... Args>
  std::string on(fmt::format_string<Args...> format, Args&&... args) const {
    return fmt::format(format, std::forward<Args>(args)...) + " on " +
           testing::PrintToString(GetParam());
  }

  // out = x Wᵀ on a backend.
  Tensor run_linear(Backend& backend, const Tensor& x, const Linear& linear) {
    const Tensor out = arena_.floats({x.dim(0), linear.weight.rows});
    const LinearOutput output{&linear, out};
    backend.linear(x, {&output, 1});
    backend.synchronize();
    return out;
  }
  Tensor run_attention(Backend& backend, const Tensor& q, const Rows& rows, const KvView& cache,
                       float scale, const Tensor* blocks, const Tensor& log_sums = {}) {
    const Tensor out = arena_.floats({q.dim(0), q.dim(1)});
    backend.attention(q, rows, cache, scale, blocks, out, log_sums);
    backend.synchronize();
    return out;
  }
  Tensor run_select(Backend& backend, const Tensor& q, const Rows& rows, const IndexView& cache,
                    const Selection& selection) {
    const std::int64_t heads = q.dim(1) / cache.dim;
    const Tensor blocks = arena_.make(DType::kI32, {q.dim(0), heads, selection.topk});
    backend.select_blocks(q, rows, cache, selection, blocks);
    backend.synchronize();
    return blocks;
  }
  // Empty arrays for the dispatch of `tokens` times `k` picks among `experts`.
  Dispatch make_dispatch(std::int64_t experts, std::int64_t tokens, std::int64_t k) {
    return {arena_.make(DType::kI32, {experts + 1}), arena_.make(DType::kI32, {tokens * k}),
            arena_.make(DType::kI32, {tokens, k})};
  }

  Arena arena_;
  ThreadPool pool_{2};
  std::unique_ptr<Backend> backend_ = make(GetParam(), pool_);
  std::unique_ptr<Backend> reference_ = make({"reference", ""}, pool_);
};

}  // namespace m3
