// Which tensor of a checkpoint each weight of the table is. Looks at headers only.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"
#include "model/weight_table.h"

namespace m3 {

struct FoundWeight {
  const WeightSpec* spec = nullptr;
  const SafetensorsFile* file = nullptr;
  // A view in the stored format. A vector is one row; further axes count as columns. Its `scale` is
  // set by read_numbers().
  Matrix matrix;
  Tensor factor;  // NVFP4: where Matrix::scale is stored
};

struct MatchedWeights {
  std::vector<FoundWeight> found;     // in the order of the table
  std::vector<std::string> warnings;  // each a sentence
};

// MTP modules whose tensors the checkpoint holds (spec: text-model §5.1).
// Errors: modules that are not numbered 0..k-1, or more than 64.
Result<std::int64_t> count_mtp_modules(const Checkpoint& checkpoint);

// Takes the vision weights that the checkpoint lacks out of the table: who does without the tower
// may also lack its files.
void leave_out_vision(std::vector<WeightSpec>& table, const Checkpoint& checkpoint);

// Finds every weight of the table under one of its names. A weight is quantised iff a scale stands
// beside it (`…weight_scale_inv` or `…weight_scale`; spec: text-model §2.4, §2.5), and then the
// types of both say how: see tensor/codec_*.cc. NVFP4's input_scale belongs to it and is not used.
// Errors, each naming tensor and file: weights that are missing, tensors that no weight asks for,
// wrong shapes and types, a scale without a quantised weight and the reverse, parts of one group in
// different formats.
Result<MatchedWeights> match_weights(const std::vector<WeightSpec>& table, const Config& config,
                                     const Checkpoint& checkpoint);

// Reads the factor of the whole matrix, where there is one, and looks at all its scales. Errors: a
// number that the format forbids; the sentence names tensor and file.
Status read_numbers(FoundWeight& found);

}  // namespace m3
