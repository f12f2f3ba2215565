#include <algorithm>
#include <cmath>

#include "media/resize.h"

namespace m3 {
namespace {

constexpr double kAspectMax = 200;
constexpr double kShortSideMin = 112;
constexpr double kCappedPixelsMax = 3584.0 * 3584.0;

// nearbyint rounds halves to even, as Python's round does.
double nearest_multiple(double side, double factor) {
  return std::max(factor, factor * std::nearbyint(side / factor));
}

}  // namespace

// Doubles in this order of operations: 1080 / (15 / 7) / 28 must be exactly 18.
Result<Size> smart_resize(Size size, const SizeRule& rule) {
  const auto width = static_cast<double>(size.width), height = static_cast<double>(size.height);
  if (size.width <= 0 || size.height <= 0)
    return fail("{} x {} pixels show nothing", size.width, size.height);
  const double aspect = std::max(width, height) / std::min(width, height);
  if (aspect > kAspectMax)  // the ratio is rounded up, so as to be above the limit in words too
    return fail(
        "{} x {} pixels are too thin: one side is {} times the other, at most {} is allowed",
        size.width, size.height, std::ceil(aspect * 100) / 100, kAspectMax);
  const auto factor = static_cast<double>(rule.factor);
  const auto low = static_cast<double>(rule.pixels_min);
  const auto high = static_cast<double>(rule.pixels_max);
  double to_width = nearest_multiple(width, factor);
  double to_height = nearest_multiple(height, factor);
  if (to_width * to_height > high) {
    const double beta = std::sqrt(height * width / high);
    to_height = factor * std::floor(height / beta / factor);
    to_width = factor * std::floor(width / beta / factor);
  } else if (to_width * to_height < low) {
    const double beta = std::sqrt(low / (height * width));
    to_height = factor * std::ceil(height * beta / factor);
    to_width = factor * std::ceil(width * beta / factor);
  }
  if (to_width <= 0 || to_height <= 0)
    return fail("{} x {} pixels have no size of at most {} pixels with sides of {}", size.width,
                size.height, rule.pixels_max, rule.factor);
  return Size{static_cast<std::int64_t>(to_width), static_cast<std::int64_t>(to_height)};
}

Result<Size> long_side_resize(Size size, std::int64_t long_side_max, std::int64_t factor) {
  if (size.width <= 0 || size.height <= 0 || long_side_max <= 0)
    return fail("{} x {} pixels cannot be made to have a long side of {}", size.width, size.height,
                long_side_max);
  const auto width = static_cast<double>(size.width), height = static_cast<double>(size.height);
  const auto cap = static_cast<double>(long_side_max);
  const double longer = std::max(width, height), shorter = std::min(width, height);
  double scale = 1;
  if (longer > cap) {
    scale = cap / longer;
  } else if (shorter < kShortSideMin) {
    scale = kShortSideMin / shorter;
  }
  const double to_width = nearest_multiple(width * scale, static_cast<double>(factor));
  const double to_height = nearest_multiple(height * scale, static_cast<double>(factor));
  if (to_width * to_height > kCappedPixelsMax)
    return fail(
        "{} x {} pixels would be seen at {} x {}, above {} pixels: send fewer "
        "or a lower cap",
        size.width, size.height, to_width, to_height, kCappedPixelsMax);
  return Size{static_cast<std::int64_t>(to_width), static_cast<std::int64_t>(to_height)};
}

}  // namespace m3
