// Every row's logits of whole sequences, in steps of any size.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/recorder.h"
#include "base/progress.h"
#include "base/result.h"
#include "model/model.h"
#include "model/splice.h"

namespace m3 {

struct LogitsRun {
  std::vector<std::vector<std::int32_t>> sequences;  // one batch
  std::int64_t chunk = 0;  // rows of each sequence in one step; 0: as many as fit
  bool trace = false;      // also what Recorder keeps of every layer
  bool mtp = false;        // also hidden states and logits of every MTP module that is loaded
  std::string choices;     // safetensors file to replay, or ""
  std::vector<SplicePlan> media = {};  // of each sequence, or none at all
};

// The tensors that `m3 logits` writes. `progress` counts rows. They live as long as the recorder.
// Errors: an empty sequence, an id outside the vocabulary, more tokens than positions, no memory
// for the cache, choices that do not fit, or MTP of a sequence of one token.
Result<std::unique_ptr<Recorder>> run_logits(const Model& model, const LogitsRun& run,
                                             const Progress& progress = {});

}  // namespace m3
