// Resampling with a widened kernel, one direction after the other, each rounded to 8 bits.
//
// Output sample i is a weighted mean of the input samples around (i + 1/2) * scale. Going down, the
// cubic kernel is widened by the scale, so that every input sample counts. Weights are normalised,
// then rounded to multiples of 2^-22, and a sum of products is rounded once: in Pillow's order, so
// that the bytes are Pillow's.
#include "media/resize.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace m3 {
namespace {

constexpr int kWeightBits = 32 - 8 - 2;  // a weight may exceed 1 a little, and be negative
constexpr double kKernelReach = 2;       // samples to either side, before widening

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// Of one output sample: which input samples count, and how much.
struct Taps {
  std::int64_t first;
  std::int64_t count;
  const std::int32_t* weights;  // [count], in units of 2^-kWeightBits
};

class Resampling {
 public:
  Resampling(std::int64_t from, std::int64_t to) : from_(from) {
    scale_ = static_cast<double>(from) / static_cast<double>(to);
    widening_ = std::max(scale_, 1.0);
    taps_max_ = static_cast<std::int64_t>(std::ceil(kKernelReach * widening_)) * 2 + 1;
    weights_.resize(to * taps_max_);
    std::vector<double> scratch(taps_max_);
    for (std::int64_t i = 0; i < to; ++i) compute(i, scratch);
  }

  Taps operator[](std::int64_t i) const {
    return {ranges_[i].first, ranges_[i].count, &weights_[i * taps_max_]};
  }

 private:
  struct Range {
    std::int64_t first;
    std::int64_t count;
  };

  void compute(std::int64_t i, std::vector<double>& weights) {
    const double reach = kKernelReach * widening_, per_widening = 1 / widening_;
    const double center = (static_cast<double>(i) + 0.5) * scale_;
    const auto first = std::max(static_cast<std::int64_t>(center - reach + 0.5), std::int64_t{0});
    const auto end = std::min(static_cast<std::int64_t>(center + reach + 0.5), from_);
    double sum = 0;
    for (std::int64_t k = first; k < end; ++k) {
      const double weight = cubic((static_cast<double>(k) - center + 0.5) * per_widening);
      weights[k - first] = weight;
      sum += weight;
    }
    std::int32_t* out = &weights_[i * taps_max_];
    for (std::int64_t k = 0; k < end - first; ++k) out[k] = to_fixed(weights[k] / sum);
    ranges_.push_back({first, end - first});
  }

  static std::int32_t to_fixed(double weight) {
    return static_cast<std::int32_t>(weight * (1 << kWeightBits) + (weight < 0 ? -0.5 : 0.5));
  }

  std::int64_t from_;
  double scale_;     // input samples per output sample
  double widening_;  // of the kernel
  std::int64_t taps_max_;
  std::vector<Range> ranges_;          // [to]
  std::vector<std::int32_t> weights_;  // [to, taps_max_]
};

std::uint8_t to_level(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

Image resize_rows(const Image& image, std::int64_t width) {
  const Resampling resampling(image.width, width);
  Image out{.width = width, .height = image.height, .rgb = {}};
  out.rgb.resize(width * image.height * 3);
  std::uint8_t* to = out.rgb.data();
  for (std::int64_t y = 0; y < image.height; ++y) {
    const std::uint8_t* row = &image.rgb[y * image.width * 3];
    for (std::int64_t x = 0; x < width; ++x, to += 3) {
      const Taps taps = resampling[x];
      const std::uint8_t* from = row + taps.first * 3;
      std::int32_t red = kHalf, green = kHalf, blue = kHalf;
      for (std::int64_t k = 0; k < taps.count; ++k, from += 3) {
        red += from[0] * taps.weights[k];
        green += from[1] * taps.weights[k];
        blue += from[2] * taps.weights[k];
      }
      to[0] = to_level(red);
      to[1] = to_level(green);
      to[2] = to_level(blue);
    }
  }
  return out;
}

// A whole row is summed at a time: the inner loop runs along memory.
Image resize_columns(const Image& image, std::int64_t height) {
  const Resampling resampling(image.height, height);
  const std::int64_t row_bytes = image.width * 3;
  Image out{.width = image.width, .height = height, .rgb = {}};
  out.rgb.resize(row_bytes * height);
  std::vector<std::int32_t> sums(row_bytes);
  for (std::int64_t y = 0; y < height; ++y) {
    const Taps taps = resampling[y];
    std::fill(sums.begin(), sums.end(), kHalf);
    for (std::int64_t k = 0; k < taps.count; ++k) {
      const std::uint8_t* row = &image.rgb[(taps.first + k) * row_bytes];
      for (std::int64_t i = 0; i < row_bytes; ++i) sums[i] += row[i] * taps.weights[k];
    }
    std::transform(sums.begin(), sums.end(), &out.rgb[y * row_bytes], to_level);
  }
  return out;
}

// Pillow 13 spares itself long rows where many fall away. It shows in the last bit, because the
// first direction is rounded before the second; older releases always begin with the rows.
bool columns_go_first(Size from, Size to) {
  return from.height > to.height && from.height - to.height > 2 * (from.width - to.width);
}

}  // namespace

Image resize_bicubic(Image image, Size size) {
  M3_CHECK(image.width > 0 && image.height > 0 && size.width > 0 && size.height > 0,
           "{} x {} to {} x {}", image.width, image.height, size.width, size.height);
  const auto rows = [&] {
    if (size.width != image.width) image = resize_rows(image, size.width);
  };
  const auto columns = [&] {
    if (size.height != image.height) image = resize_columns(image, size.height);
  };
  if (columns_go_first({image.width, image.height}, size)) {
    columns();
    rows();
  } else {
    rows();
    columns();
  }
  return image;
}

}  // namespace m3
