#include "apps/progress_bar.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace m3 {
namespace {

constexpr double kQuietSeconds = 1;
constexpr double kRedrawSeconds = 0.1;
constexpr double kLogSeconds = 10;
constexpr int kBarWidth = 24;

double seconds(auto duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

std::string quantity(double count, const std::string& unit) {
  if (unit != "B") return fmt::format("{:.0f} {}", count, unit);
  constexpr const char* kPrefixes[] = {"B", "kB", "MB", "GB", "TB"};
  std::size_t prefix = 0;
  while (count >= 1000 && prefix + 1 < std::size(kPrefixes)) {
    count /= 1000;
    ++prefix;
  }
  return fmt::format("{:.{}f} {}", count, prefix >= 3 ? 1 : 0, kPrefixes[prefix]);
}

ProgressBar::ProgressBar(std::string what, std::string unit)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      begin_(Clock::now()),
      last_(begin_) {}

ProgressBar::~ProgressBar() {
  if (drawn_ && terminal_) std::fputs("\n", stderr);
}

void ProgressBar::update(std::int64_t done, std::int64_t total) {
  const auto now = Clock::now();
  const double elapsed = seconds(now - begin_), since = seconds(now - last_);
  const bool finished = done >= total;
  if (finished_ || (!drawn_ && (elapsed < kQuietSeconds || finished))) return;
  if (since < (terminal_ ? kRedrawSeconds : kLogSeconds) && !finished) return;
  const std::string text = line(done, total, elapsed);
  std::fprintf(stderr, "%s%s%s", terminal_ ? "\r\033[K" : "", text.c_str(), terminal_ ? "" : "\n");
  std::fflush(stderr);
  drawn_ = true;
  finished_ = finished;
  last_ = now;
}

std::string ProgressBar::line(std::int64_t done, std::int64_t total, double elapsed) const {
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  const double rate = elapsed > 0 ? static_cast<double>(done) / elapsed : 0;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  const int filled = std::clamp(static_cast<int>(share * kBarWidth), 0, kBarWidth);
  return fmt::format("{} {:3.0f}% [{}{}] {} of {}  {}/s  ETA {:.0f} s", what_, 100 * share,
                     std::string(static_cast<std::size_t>(filled), '#'),
                     std::string(static_cast<std::size_t>(kBarWidth - filled), ' '),
                     quantity(static_cast<double>(done), unit_),
                     quantity(static_cast<double>(total), unit_), quantity(rate, unit_), left);
}

}  // namespace m3
