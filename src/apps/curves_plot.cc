#include "apps/curves_plot.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "apps/svg.h"

namespace m3 {
namespace {

// Pixels.
constexpr double kWidth = 860, kLeft = 76, kRight = 24, kTop = 84, kHigh = 220, kLow = 120,
                 kGap = 46, kBelow = 44;
constexpr std::size_t kPointsMax = 700;
constexpr const char* kTrained = "#2563a8";
constexpr const char* kHeldBack = "#d97b29";

struct Point {
  double x = 0, y = 0;
};

// Finite ones; means of neighbours where there are more than can be told apart.
std::vector<Point> thinned(const std::vector<Point>& all) {
  std::vector<Point> finite;
  for (const Point& point : all)
    if (std::isfinite(point.y)) finite.push_back(point);
  const std::size_t size = (finite.size() + kPointsMax - 1) / kPointsMax;
  if (size <= 1) return finite;
  std::vector<Point> means;
  for (std::size_t begin = 0; begin < finite.size(); begin += size) {
    const std::size_t count = std::min(size, finite.size() - begin);
    Point mean;
    for (std::size_t i = begin; i < begin + count; ++i) {
      mean.x += finite[i].x / static_cast<double>(count);
      mean.y += finite[i].y / static_cast<double>(count);
    }
    means.push_back(mean);
  }
  return means;
}

// 1, 2 or 5 times a power of ten: the smallest that is not below.
double round_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

struct Axis {
  double low = 0, high = 1, step = 1;

  // From 0, or from near the lowest where that is far from 0; about `marks` marks.
  static Axis of(double low, double high, int marks) {
    if (!(high > low)) high = low + std::max(std::abs(low), 1e-12);
    if (low >= 0 && low < 0.5 * high) low = 0;
    Axis axis;
    axis.step = round_step((high - low) / marks);
    axis.low = std::floor(low / axis.step + 1e-9) * axis.step;
    axis.high = std::ceil(high / axis.step - 1e-9) * axis.step;
    return axis;
  }
  std::vector<double> marks() const {
    std::vector<double> marks;
    const auto count = std::lround((high - low) / step);
    for (long i = 0; i <= count; ++i) marks.push_back(low + static_cast<double>(i) * step);
    return marks;
  }
  double share(double value) const { return (value - low) / (high - low); }
};

struct Curve {
  std::vector<Point> points;
  const char* colour;
  bool dots = false;
};

// A rectangle with curves over the steps.
class Panel {
 public:
  Panel(double top, double height, const Axis& x, std::vector<Curve> curves)
      : top_(top), height_(height), x_(x), curves_(std::move(curves)) {
    double low = INFINITY, high = -INFINITY;
    for (const Curve& curve : curves_)
      for (const Point& point : curve.points) {
        low = std::min(low, point.y);
        high = std::max(high, point.y);
      }
    y_ = std::isfinite(low) ? Axis::of(low, high, height > kLow ? 5 : 3) : Axis();
  }

  std::string svg(const std::string& title) const {
    std::string out = text(kLeft, top_ - 8, title, {.bold = true});
    for (const double mark : y_.marks()) {
      out += line(kLeft, y(mark), kWidth - kRight, y(mark), kFaint);
      const double shown = std::abs(mark) < 1e-9 * y_.high ? 0 : mark;
      out += text(kLeft - 8, y(mark) + 4, fmt::format("{:.4g}", shown), {.anchor = "end"});
    }
    for (const double mark : x_.marks()) {
      out += line(x(mark), top_ + height_, x(mark), top_ + height_ + 4, kInk);
      out += text(x(mark), top_ + height_ + 18, fmt::format("{:.0f}", mark), {.anchor = "middle"});
    }
    out += line(kLeft, top_ + height_, kWidth - kRight, top_ + height_, kInk);
    for (const Curve& curve : curves_) out += drawn(curve);
    return out;
  }

 private:
  double x(double step) const { return kLeft + (kWidth - kRight - kLeft) * x_.share(step); }
  double y(double value) const { return top_ + height_ * (1 - y_.share(value)); }

  static std::string line(double x1, double y1, double x2, double y2, const char* colour) {
    return fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1, y1,
        x2, y2, colour);
  }

  std::string drawn(const Curve& curve) const {
    std::string places, dots;
    for (const Point& point : curve.points) {
      places += fmt::format("{:.1f},{:.1f} ", x(point.x), y(point.y));
      if (curve.dots || curve.points.size() == 1)
        dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n",
                            x(point.x), y(point.y), curve.colour);
    }
    return fmt::format(
               "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" "
               "stroke-linejoin=\"round\"/>\n",
               places, curve.colour) +
           dots;
  }

  double top_, height_;
  Axis x_, y_;
  std::vector<Curve> curves_;
};

Curve curve_of(const std::vector<StepLine>& steps, double StepLine::*value) {
  std::vector<Point> points;
  for (const StepLine& line : steps)
    points.push_back({static_cast<double>(line.step), line.*value});
  return {thinned(points), kTrained};
}

Curve curve_of(const std::vector<ValidationLine>& validations) {
  std::vector<Point> points;
  for (const ValidationLine& line : validations)
    points.push_back({static_cast<double>(line.step), line.loss});
  return {thinned(points), kHeldBack, /*dots=*/points.size() <= 60};
}

std::string legend(double x, const char* colour, const std::string& words) {
  return box(x, 52, 18, 3, colour) + text(x + 26, 57, words);
}

}  // namespace

std::string curves_svg(const std::string& name, const std::vector<StepLine>& steps,
                       const std::vector<ValidationLine>& validations) {
  const double last = steps.empty() ? 1 : static_cast<double>(steps.back().step);
  const Axis x = Axis::of(0, std::max(last, 5.0), 8);
  const double second = kTop + kHigh + kGap + 18, third = second + kLow + kGap + 18;
  std::string out = svg_begin(kWidth, third + kLow + kBelow);
  out += text(kLeft, 30, "m3 train: " + name, {.size = 17, .bold = true});
  out += legend(kLeft + 120, kTrained, "of each step, before it");
  if (!validations.empty())
    out += legend(kLeft + 320, kHeldBack,
                  fmt::format("validation, {:.4f} at step {}", validations.back().loss,
                              validations.back().step));
  out +=
      Panel(kTop, kHigh, x, {curve_of(steps, &StepLine::loss), curve_of(validations)}).svg("loss");
  out += Panel(second, kLow, x, {curve_of(steps, &StepLine::gradient_norm)})
             .svg("norm of the gradient, before clipping");
  out += Panel(third, kLow, x, {curve_of(steps, &StepLine::rate)}).svg("learning rate");
  out += text(kWidth - kRight, third + kLow + 34, "step", {.size = 11, .anchor = "end"});
  return out + kSvgEnd;
}

}  // namespace m3
