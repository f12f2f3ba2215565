#include "apps/training_run.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <ctime>

#include "train/run_log.h"

namespace m3 {
namespace {

// The first signal that asked, and when it did.
volatile std::sig_atomic_t asked = 0;
timespec asked_at{};

// timeout(1) and some shells send their signal to the process and then to its group: the two are
// one wish.
constexpr double kOneWishSeconds = 0.25;

extern "C" void ask_to_stop(int signal) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  if (asked == 0) {
    asked_at = now;
    asked = signal;
    return;
  }
  const double since = static_cast<double>(now.tv_sec - asked_at.tv_sec) +
                       1e-9 * static_cast<double>(now.tv_nsec - asked_at.tv_nsec);
  if (since > kOneWishSeconds) ::_exit(128 + signal);
}

// The program's largest memory so far.
double memory_gib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// "7 s", "12 min", "3.4 h".
std::string duration(double seconds) {
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

// So many steps in a row whose numbers are not finite end a run: no later one will be better.
constexpr std::int64_t kDivergedSteps = 10;

// Whether the step had something to learn from, and its loss or gradient was not finite.
bool is_not_finite(const StepLine& line) {
  return !line.skipped.empty() && line.labels > 0;
}

// Why the step changed no weight, or empty; with the sample that was the first to spoil the loss.
std::string why_skipped(const StepReport& report, const TrainingBatch& batch) {
  if (!report.not_finite || report.skipped.empty()) return report.skipped;
  return report.skipped + ", first at " +
         batch.places[static_cast<std::size_t>(*report.not_finite)];
}

std::string briefly(std::span<const Measure> measures) {
  std::string text;
  for (const Measure& measure : measures)
    if (measure.is_brief) text += fmt::format("  {} {:.4f}", measure.name, measure.value);
  return text;
}

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

class Loop {
 public:
  explicit Loop(const TrainingRun& run) : run_(run), first_(run.trainer.steps()) {
    if (run.folder == nullptr) return;
    validations_ = run.folder->log().validations();
    for (const StepLine& line : run.folder->log().steps()) count_not_finite(line);
  }

  Result<int> go() {
    if (asked == 0 && validation_is_missing()) {
      M3_TRY_STATUS(validate());
      run_.folder->after_step();
    }
    while (asked == 0 && run_.trainer.steps() < run_.batches.steps() &&
           !has_lost_patience(validations_, run_.patience)) {
      M3_TRY_STATUS(step());
      if (asked == 0 && run_.batches.validates_after(run_.trainer.steps() - 1))
        M3_TRY_STATUS(validate());
      if (asked == 0 && samples_are_due()) M3_TRY_STATUS(sample());
      if (run_.folder != nullptr) run_.folder->after_step();
    }
    return asked;
  }

 private:
  // An earlier process was stopped between a step and what follows it.
  bool validation_is_missing() const {
    const std::int64_t done = run_.trainer.steps();
    return run_.folder != nullptr && done > 0 && run_.batches.validates_after(done - 1) &&
           !run_.folder->validation_loss();
  }

  std::int64_t epoch() const { return run_.batches.epoch_of(run_.trainer.steps() - 1) + 1; }

  Status step() {
    const Clock::time_point begin = Clock::now();
    M3_TRY(const TrainingBatch batch, run_.batches.at(run_.trainer.steps(), run_.rows));
    M3_TRY(const StepReport report, run_.trainer.step(batch.sequences));
    const double seconds = seconds_since(begin);
    const std::int64_t tokens = rows_of(batch.sequences);
    return tell({.step = run_.trainer.steps(),
                 .epoch = epoch(),
                 .loss = report.loss,
                 .gradient_norm = report.gradient_norm,
                 .rate = report.rate,
                 .memory_gib = memory_gib(),
                 .tokens_per_second = static_cast<double>(tokens) / seconds,
                 .peak_share = peak_share(batch.sequences, seconds),
                 .tokens = tokens,
                 .labels = report.scored,
                 .skipped = why_skipped(report, batch),
                 .measures = report.measures,
                 .seconds_left = seconds_left()});
  }

  // If the steps that are left take as long as those of this process, with all that came between:
  // validations, answers, checkpoints.
  double seconds_left() const {
    const std::int64_t done = run_.trainer.steps();
    const auto each = seconds_since(begin_) / static_cast<double>(done - first_);
    return each * static_cast<double>(run_.batches.steps() - done);
  }

  bool samples_are_due() const {
    if (run_.samples == nullptr) return false;
    const std::int64_t done = run_.trainer.steps(), every = run_.samples->every();
    return run_.batches.is_due(done - 1, every);
  }

  Status sample() {
    M3_TRY(const std::vector<SampleLine> lines, run_.samples->draw(run_.trainer.steps()));
    const double now = seconds_since_1970();
    for (const SampleLine& line : lines) {
      if (run_.folder != nullptr) note(run_.folder->log().add(line, now));
      print(run_.json ? json_line(line, now)
                      : fmt::format("step {}  > {}\n{}", line.step, line.prompt, line.answer));
    }
    return {};
  }

  double peak_share(std::span<const TrainingSequence> sequences, double seconds) const {
    if (run_.work == nullptr || run_.peak_tflop_per_s == 0) return 0;
    const TrainingFlops flops =
        run_.work->flops(lengths_of(sequences), scored_labels(sequences), /*repeats=*/false);
    return flops.useful() / seconds / (1e12 * run_.peak_tflop_per_s);
  }

  // The mean loss of a scored token of what is not trained on, as Trainer::judged() has it. Says
  // nothing where it is stopped.
  Status validate() {
    ValidationLine line{.step = run_.trainer.steps(), .epoch = epoch()};
    LossSums sums;
    for (std::int64_t i = 0; i < run_.batches.validation_batches(); ++i) {
      if (asked != 0) return {};
      M3_TRY(const TrainingBatch batch, run_.batches.validation_at(i, run_.rows));
      M3_TRY(const LossSums losses, run_.trainer.losses(batch.sequences));
      sums.add(losses);
      line.labels += scored_labels(batch.sequences);
    }
    const auto labels = static_cast<double>(line.labels);
    line.loss = run_.trainer.judged(sums) / labels;
    line.measures = sums.measures(line.labels);
    validations_.push_back(line);
    const double now = seconds_since_1970();
    if (run_.folder != nullptr) note(run_.folder->log().add(line, now));
    print(run_.json ? json_line(line, now)
                    : fmt::format("step {}  validation loss {:.4f}  perplexity {:.4g}{}", line.step,
                                  line.loss, std::exp(sums.main / labels), briefly(line.measures)));
    return {};
  }

  void count_not_finite(const StepLine& line) {
    not_finite_ = is_not_finite(line) ? not_finite_ + 1 : 0;
  }

  // Errors: the run has diverged.
  Status tell(const StepLine& line) {
    print_step(line);
    count_not_finite(line);
    if (not_finite_ < std::min(kDivergedSteps, run_.batches.steps())) return {};
    return fail(
        "step {}: {}; so it was for {} steps in a row, none of which changed a weight, and the run "
        "ends: {}",
        line.step, line.skipped, not_finite_,
        not_finite_ == line.step ? "the model's weights may be damaged"
                                 : "a lower --lr or a longer --warmup may keep the numbers finite");
  }

  void print_step(const StepLine& line) {
    const double now = seconds_since_1970();
    if (run_.folder != nullptr) note(run_.folder->log().add(line, now));
    if (run_.json) {
      print(json_line(line, now));
      return;
    }
    const std::int64_t steps = run_.batches.steps();
    print(fmt::format(
        "step {}/{}  epoch {}  loss {:.4f}{}  norm {:.3g}  lr {:.3g}  {:.1f} tokens/s{}  "
        "{} labels  {:.2f} GiB  {} left{}{}",
        line.step, steps, line.epoch, line.loss, briefly(line.measures), line.gradient_norm,
        line.rate, line.tokens_per_second,
        line.peak_share > 0 ? fmt::format(" ({:.2f} of peak)", line.peak_share) : "", line.labels,
        line.memory_gib, duration(line.seconds_left),
        line.skipped.empty() ? "" : "  skipped: ", line.skipped));
  }

  // Once: a full disk is full for many steps.
  void note(const Status& logged) {
    if (!logged && !warned_)
      std::fprintf(stderr, "warning: %s; what is missing follows when there is room\n",
                   logged.error().message.c_str());
    warned_ = !logged;
  }

  const TrainingRun& run_;
  const std::int64_t first_;
  const Clock::time_point begin_ = Clock::now();
  std::vector<ValidationLine> validations_;
  std::int64_t not_finite_ = 0;  // steps in a row, up to the last
  bool warned_ = false;
};

}  // namespace

const ValidationLine* lowest(std::span<const ValidationLine> validations) {
  const ValidationLine* best = nullptr;
  for (const ValidationLine& line : validations)
    if (std::isfinite(line.loss) && (best == nullptr || line.loss < best->loss)) best = &line;
  return best;
}

bool has_lost_patience(std::span<const ValidationLine> validations, std::int64_t patience) {
  const ValidationLine* best = lowest(validations);
  return patience > 0 && best != nullptr && &validations.back() - best >= patience;
}

Result<int> run_steps(const TrainingRun& run) {
  std::signal(SIGINT, ask_to_stop);
  std::signal(SIGTERM, ask_to_stop);
  return Loop(run).go();
}

void end_by(int signal) {
  std::fflush(nullptr);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
  ::_exit(128 + signal);
}

}  // namespace m3
