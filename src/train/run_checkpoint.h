// A training run at one of its steps, on disk: all that its later steps follow from.
//
//   step-N/state.safetensors   weights.NAME, first.NAME and second.NAME: the value of each trained
//                              number and both of its moments, as the trainer has them
//   step-N/checkpoint.json     where the run stood, what it is ("run"), bytes and checksum of the
//                              state; "xxh3": of all this, as one compact line
//
// Checksums are XXH3 of 64 bits, in hexadecimal. Until all is on the disk, the directory is
// step-N.part, which is never read.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "train/trainer.h"

namespace m3 {

// Something that numbers depend on: "--lr" and "0.0001".
struct RunFact {
  std::string name, value;
};

// The sentence's part that says how two runs differ first, or empty.
std::string first_difference(std::span<const RunFact> run, std::span<const RunFact> now);

// "run" of checkpoint.json and run.json.
std::string facts_text(std::span<const RunFact> run);
// Errors: not such a text.
Result<std::vector<RunFact>> parse_facts(const std::string& path);

struct RunCheckpoint {
  std::string directory;  // of this one
  std::int64_t step = 0;
  std::int64_t updates = 0;               // steps that changed weights
  std::optional<double> validation_loss;  // at this step
  std::optional<double> best_loss;        // of all validations up to it
  std::vector<RunFact> run;
  std::int64_t state_bytes = 0;
  std::uint64_t state_checksum = 0;
};

// Bytes that a checkpoint of this trainer has.
std::int64_t checkpoint_bytes(const Trainer& trainer);

// Writes one of the trainer's step, into `directory`/step-N. An older one of that step is replaced.
// The directory, step, updates and the state's bytes and checksum of `point` are set here.
// Errors: the disk is full, or any other failure of writing; what was there before is untouched.
Result<RunCheckpoint> save_checkpoint(const std::string& directory, const Trainer& trainer,
                                      RunCheckpoint point, const Progress& progress);

// Writes what has become known of a checkpoint since. Errors: those of writing files.
Status save_record(const RunCheckpoint& checkpoint);

// Those that are there, newest first, with what is wrong with those that cannot be read.
struct ListedCheckpoint {
  std::int64_t step = 0;
  Result<RunCheckpoint> checkpoint;
};
std::vector<ListedCheckpoint> list_checkpoints(const std::string& directory);

// Lets the trainer go on where the checkpoint was made. Errors: the state is damaged or of other
// weights; the trainer is as it was.
Status restore_checkpoint(const RunCheckpoint& checkpoint, Trainer& trainer,
                          const Progress& progress);

// Removes all but `newest` and the one of the lowest validation loss, and what was never finished.
// What cannot be removed stays.
void remove_superseded(const std::string& directory, const RunCheckpoint& newest);

}  // namespace m3
