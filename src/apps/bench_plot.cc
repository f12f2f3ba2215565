#include "apps/bench_plot.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "apps/svg.h"

namespace m3 {
namespace {

// Pixels.
constexpr double kLeft = 64, kTop = 92, kHeight = 280, kBar = 34, kGap = 30, kBelow = 62;
constexpr double kWidthMin = 720, kRight = 24, kLegendRow = 18;
constexpr const char* kColours[] = {"#2563a8", "#d97b29", "#3f8f4f",
                                    "#8455a8", "#b8433f", "#5d6a75"};

std::string level(double y, double right, const char* colour, double width, bool dashed) {
  return fmt::format(
      "<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
      "stroke-width=\"{}\"{}/>\n",
      kLeft, y, right, y, colour, width, dashed ? " stroke-dasharray=\"6 4\"" : "");
}

bool same_case(const BenchCase& a, const BenchCase& b) {
  return a.prefill == b.prefill && a.vision == b.vision && a.tokens == b.tokens &&
         a.depth == b.depth && a.batch == b.batch;
}

// Rows of one model, and their colour.
struct Series {
  std::string name;
  const char* colour;
};

std::string series_name(const BenchRow& row) {
  return row.model + " (" + row.format + ")";
}

class Plot {
 public:
  explicit Plot(const std::vector<BenchRow>& rows) : rows_(rows) {
    for (const BenchRow& row : rows) {
      if (series_of(row) == series_.size())
        series_.push_back({series_name(row), kColours[series_.size() % std::size(kColours)]});
      const auto same = [&](const BenchCase& c) { return same_case(c, row.bench_case); };
      if (std::none_of(cases_.begin(), cases_.end(), same)) cases_.push_back(row.bench_case);
      highest_ = std::max(highest_, std::ceil(row.share() * 5) / 5);
    }
    group_ = static_cast<double>(series_.size()) * kBar + kGap;
    right_ =
        std::max(kWidthMin, kLeft + static_cast<double>(cases_.size()) * group_ + kRight) - kRight;
    group_ = (right_ - kLeft) / static_cast<double>(cases_.size());
  }

  std::string svg(const std::string& machine) const {
    const double width = right_ + kRight;
    const double height = bottom() + kBelow + kLegendRow * static_cast<double>(series_.size() + 2);
    std::string out = svg_begin(width, height);
    out += text(kLeft, 28, "m3 bench: share of the machine's limit", {.size = 17, .bold = true});
    // Two lines of it, cut where the limits begin.
    const std::size_t cut = std::min(machine.find(": "), machine.size());
    out += text(kLeft, 48, machine.substr(0, cut));
    if (cut < machine.size()) out += text(kLeft, 65, machine.substr(cut + 2));
    return out + axis() + bars() + legend() + kSvgEnd;
  }

 private:
  double bottom() const { return kTop + kHeight; }
  double height_of(double share) const { return kHeight * share / highest_; }
  std::size_t series_of(const BenchRow& row) const {
    const auto at = std::find_if(series_.begin(), series_.end(),
                                 [&](const Series& s) { return s.name == series_name(row); });
    return static_cast<std::size_t>(at - series_.begin());
  }

  std::string axis() const {
    std::string out = text(18, kTop + kHeight / 2, "share of the limit, %",
                           {.anchor = "middle", .upwards = true});
    for (int percent = 0; percent <= std::lround(100 * highest_); percent += 20) {
      const double y = bottom() - height_of(percent / 100.0);
      if (percent != 100) out += level(y, right_, kFaint, 1, false);
      out += text(kLeft - 8, y + 4, fmt::format("{}", percent), {.anchor = "end"});
    }
    out += level(bottom() - height_of(1), right_, kInk, 1.5, true);
    return out + level(bottom(), right_, kInk, 1, false);
  }

  std::string bars() const {
    std::string out;
    for (std::size_t i = 0; i < cases_.size(); ++i) {
      const double bars = static_cast<double>(series_.size()) * kBar;
      const double left = kLeft + group_ * static_cast<double>(i) + (group_ - bars) / 2;
      for (const BenchRow& row : rows_)
        if (same_case(row.bench_case, cases_[i]))
          out += bar(row, left + kBar * static_cast<double>(series_of(row)));
      out += labels(i, left + bars / 2);
    }
    return out;
  }

  std::string bar(const BenchRow& row, double x) const {
    const double high = height_of(row.share()), y = bottom() - high, middle = x + kBar / 2;
    std::string out = box(x + 1.5, y, kBar - 3, high, series_[series_of(row)].colour);
    out += text(middle, y - 5, fmt::format("{:.0f}", 100 * row.share()),
                {.size = 11, .anchor = "middle", .bold = true});
    const std::string speed =
        fmt::format("{:.{}f} tokens/s", row.tokens_per_s(), row.tokens_per_s() < 100 ? 1 : 0);
    // Inside the bar where that is high enough, else above it and its number.
    const bool inside = high > 7.0 * static_cast<double>(speed.size());
    return out + text(middle + 4, inside ? bottom() - 8 : y - 20, speed,
                      {.size = 11, .colour = inside ? "#ffffff" : kInk, .upwards = true});
  }

  std::string labels(std::size_t i, double x) const {
    const auto same = [&](const BenchRow& row) { return same_case(row.bench_case, cases_[i]); };
    const BenchRow& row = *std::find_if(rows_.begin(), rows_.end(), same);
    std::string out = text(x, bottom() + 17, row.test(), {.anchor = "middle", .bold = true});
    if (cases_[i].vision) return out;
    out += text(x, bottom() + 32, fmt::format("depth {}", cases_[i].depth),
                {.size = 11, .anchor = "middle"});
    if (cases_[i].prefill) return out;
    return out + text(x, bottom() + 46, fmt::format("batch {}", cases_[i].batch),
                      {.size = 11, .anchor = "middle"});
  }

  std::string legend() const {
    std::string out;
    double y = bottom() + kBelow;
    for (const Series& series : series_) {
      out += box(kLeft, y, 11, 11, series.colour) + text(kLeft + 18, y + 10, series.name);
      y += kLegendRow;
    }
    const TextStyle small{.size = 10, .colour = "#555555"};
    return out +
           text(kLeft, y + 10,
                "100 %: as fast as bytes can be read or products be made, whichever takes longer, "
                "measured in the same run.",
                small) +
           text(kLeft, y + 23, "ppN: prefill of N tokens; tgN: N tokens decoded by each sequence.",
                small);
  }

  const std::vector<BenchRow>& rows_;
  std::vector<Series> series_;
  std::vector<BenchCase> cases_;
  double highest_ = 1.2;  // of the axis
  double group_ = 0;      // width of a case
  double right_ = 0;      // end of the axis
};

}  // namespace

std::string plot_svg(const std::vector<BenchRow>& rows, const std::string& machine) {
  return Plot(rows).svg(machine);
}

}  // namespace m3
