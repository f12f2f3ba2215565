// The folder of a training run, `m3 train --out`: from its first step on it holds what the run has
// told and what it can be continued from, at the end the trained model or adapter as well.
//
//   run.json                what the run is
//   log.jsonl, events.out.tfevents.*, curves.svg
//   checkpoints/step-N/    the newest, and the one of the lowest validation loss
//   result, result.part    what is trained, until all of it is written and moves beside these
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "train/run_checkpoint.h"
#include "train/run_log.h"
#include "train/trainer.h"

namespace m3 {

struct RunFolderOptions {
  std::string directory;
  bool resume = false;
  std::int64_t save_every = 0;  // steps; 0: as often as costs little
};

// Of a run whose bits other machines may not repeat; that they differ is worth a warning alone.
inline constexpr const char* kInstructionSet = "instruction set";

class RunFolder {
 public:
  // Claims the directory for this process. Errors: it holds a run and is not to be resumed, or
  // something else; it is to be resumed and holds none; another process trains into it.
  static Result<std::unique_ptr<RunFolder>> claim(const RunFolderOptions& options);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  // Begins the run that `facts` describe, or lets the trainer go on where it was; what happens is
  // told on stderr. The trainer outlives the folder. `validates`: there will be a best checkpoint.
  // Errors: the run in the folder is another; none of its checkpoints is whole; no room.
  Status begin(const std::vector<RunFact>& facts, Trainer& trainer, bool validates);

  RunLog& log() { return *log_; }
  // Of the trainer's step; none: it was not validated.
  std::optional<double> validation_loss() const;
  // Whether the result is there already.
  bool is_published() const;

  // To be told of each step's end, when the log knows it. Saves where it is time to, and what
  // cannot be saved is told on stderr: the run goes on.
  void after_step();
  // Saves unless this step is saved. Errors: those of save_checkpoint().
  Status save();

  // Gives the trainer what it had when the validation loss was lowest. Errors: that checkpoint is
  // not there or is damaged.
  Status take_best();

  // Where the result is to be written, a new directory, and then: all of it moves to the folder's
  // root, the file without which nothing loads it last.
  std::string result_directory() const { return options_.directory + "/result"; }
  Status publish();

 private:
  RunFolder(RunFolderOptions options, int lock) : options_(std::move(options)), lock_(lock) {}
  std::string checkpoints() const { return options_.directory + "/checkpoints"; }
  Status expect_run(const std::vector<RunFact>& now) const;
  Status restore();
  bool is_time() const;
  bool is_best(std::optional<double> validation_loss) const;
  void draw_curves() const;

  using Clock = std::chrono::steady_clock;
  RunFolderOptions options_;
  int lock_;  // the open directory
  bool is_ours_ = true;
  Trainer* trainer_ = nullptr;
  std::vector<RunFact> facts_;
  std::optional<RunLog> log_;
  std::optional<double> best_loss_;
  std::optional<RunCheckpoint> saved_;  // the newest
  Clock::time_point saved_at_ = Clock::now();
  Clock::duration save_took_{};
};

}  // namespace m3
