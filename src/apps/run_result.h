// What a training run leaves: a model, or an adapter.
#pragma once

#include "apps/model_options.h"
#include "apps/run_folder.h"
#include "base/result.h"
#include "model/lora_files.h"
#include "train/trainer.h"

namespace m3 {

struct RunResult {
  LoadedModel& loaded;
  const ModelOptions& model;
  const std::string& directory;  // of the run
  LoraNames names;               // of an adapter, under which it is saved
  double dropout;                // with which it was trained

  // To be asked before hours of training. Errors: it could not be written.
  Status expect_room(const RunFolder& folder, const Trainer& trainer) const;
  // Into the folder's directory for it.
  Status write(const RunFolder& folder, const Trainer& trainer) const;
};

}  // namespace m3
