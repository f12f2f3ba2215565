// What a training run's numbers follow from, as its folder remembers it.
#pragma once

#include <string>
#include <vector>

#include "apps/lora_options.h"
#include "apps/model_options.h"
#include "base/result.h"
#include "model/lora.h"
#include "train/run_checkpoint.h"
#include "train/trainer.h"

namespace m3 {

// Config, weights by names, sizes and a sample of their bytes, backend and instruction set. Times
// and places of files may change. Errors: those of opening the checkpoint.
Result<std::vector<RunFact>> model_facts(const ModelOptions& options, const LoadedModel& loaded);

// Of optimiser and schedule; `schedule` is the latter's name.
std::vector<RunFact> trainer_facts(const TrainerOptions& options, const std::string& schedule);

// Of an adapter before its first step; where it comes from files, also the numbers in them.
std::vector<RunFact> lora_facts(const Lora& lora, const NewLoraOptions& options);

}  // namespace m3
