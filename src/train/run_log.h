// What a training run tells of its steps: log.jsonl, and an event file for TensorBoard.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "train/measure.h"

namespace m3 {

// Keys of the log: spec, training §11.3.
struct StepLine {
  std::int64_t step = 0;  // from 1
  std::int64_t epoch = 0;
  double loss = 0;
  double gradient_norm = 0;
  double rate = 0;
  double memory_gib = 0;  // the program's largest so far
  double tokens_per_second = 0;
  double peak_share = 0;  // of the matrix peak, by useful operations; 0: unknown
  std::int64_t tokens = 0;
  std::int64_t labels = 0;
  std::string skipped = {};  // why no weight was changed, or empty
  std::vector<Measure> measures = {};
  double seconds_left = 0;  // of the run, as far as one can say
};

struct ValidationLine {
  std::int64_t step = 0;
  std::int64_t epoch = 0;
  double loss = 0;
  std::int64_t labels = 0;
  std::vector<Measure> measures = {};  // under "val_" and their names
};

// What the model answers.
struct SampleLine {
  std::int64_t step = 0;
  std::string prompt, answer;
};

// One JSON object, without the line's end. `seconds`: since 1970.
std::string json_line(const StepLine& line, double seconds);
std::string json_line(const ValidationLine& line, double seconds);
std::string json_line(const SampleLine& line, double seconds);

double seconds_since_1970();

// A file that grows. What a full disk does not take is kept and written first the next time, so
// that no line is lost that a later one follows.
class GrowingFile {
 public:
  // Errors: the file cannot be opened.
  static Result<GrowingFile> open(const std::string& path);
  GrowingFile(GrowingFile&& other) noexcept;
  GrowingFile& operator=(GrowingFile&&) = delete;
  ~GrowingFile();

  // Errors: not all is in the file yet.
  Status add(std::string_view text);
  // Waits for the disk. Errors: not all is on it.
  Status sync();

 private:
  GrowingFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  std::string path_;
  int descriptor_;
  std::string waiting_;
};

class RunLog {
 public:
  // Of the run in `directory`, of which `done` steps count: what an earlier process logged of later
  // ones is taken back. Each process has an event file of its own; TensorBoard reads them all.
  // Errors: it cannot be read or written.
  static Result<RunLog> open(const std::string& directory, std::int64_t done);

  // `seconds`: since 1970. Errors: not all is in the files yet; the rest follows with the next
  // line.
  Status add(const StepLine& line, double seconds);
  Status add(const ValidationLine& line, double seconds);
  Status add(const SampleLine& line, double seconds);
  // Errors: not all is on the disk.
  Status sync();

  // All lines that count, those of earlier processes too.
  const std::vector<StepLine>& steps() const { return steps_; }
  const std::vector<ValidationLine>& validations() const { return validations_; }

 private:
  RunLog(GrowingFile lines, GrowingFile events)
      : lines_(std::move(lines)), events_(std::move(events)) {}
  GrowingFile lines_, events_;
  std::vector<StepLine> steps_;
  std::vector<ValidationLine> validations_;
};

}  // namespace m3
