// Progress on stderr, for people.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/progress.h"

namespace m3 {

// Shows nothing for the first second. Then, on a terminal, one line that is drawn again and again:
//   writing weights  45% [#########           ]  3.1 of 6.9 GB  310 MB/s  ETA 12 s
// and elsewhere a line every ten seconds, so that a log shows life without drowning.
class ProgressBar {
 public:
  // `unit` is what done and total count: "B" for bytes, or a plural noun.
  ProgressBar(std::string what, std::string unit);
  ~ProgressBar();  // ends the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(std::int64_t done, std::int64_t total);
  // For functions that take a Progress; the bar must outlive the call.
  Progress callback() {
    return [this](std::int64_t done, std::int64_t total) { update(done, total); };
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(std::int64_t done, std::int64_t total, double seconds) const;

  std::string what_;
  std::string unit_;
  bool terminal_;
  bool drawn_ = false;
  bool finished_ = false;
  Clock::time_point begin_;
  Clock::time_point last_;
};

// "3.1 GB", "12 kB"; for other units "3100 tensors".
std::string quantity(double count, const std::string& unit);

}  // namespace m3
