// Multi-token prediction: a module guesses the token after next (spec: text-model §5.2, §5.3).
//
// A module is one more decoder layer. Its row at slot i joins the embedding of token i + 1 with a
// hidden state of row i, and its logits are of token i + 2. It keeps K, V and index keys of its own
// in the same pages as the model's layers, so a module can only run where its rows before have run:
// after each Model::forward() with Batch::keep_final, Model::forward_mtp() takes every module over
// the rows that are verified, at the same slots, each id the next token's. These rows continue
// `final_hidden` of that step. Each further draft is a row at the next slot, whose id is the last
// draft and which continues `hidden` of the row that drafted it: before the module's own last norm.
// What drafts have stored is overwritten when their slots are verified.
//
// That is MtpChain::kPreNorm. Modules that were trained here, kPostNorm, form a chain instead
// (spec: training §3.1): module k at slot i joins token i + 1 + k with `hidden` of module k - 1 at
// the same slot, after that one's last norm, and its logits are of token i + 2 + k. With
// Batch::keep_final every row's is in the arena's final_hidden.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace m3 {

struct MtpInput {
  std::int64_t module = 0;
  // [any, hidden]: Activations::final_hidden of the last Model::forward() in this arena, or
  // MtpOutputs::hidden of the last MTP step.
  Tensor hidden;
  std::vector<std::int32_t> sources;  // [rows of the batch]: the row of `hidden` each continues
};

// Of the rows that the batch lists as outputs, in the arena until its next step.
struct MtpOutputs {
  Tensor hidden;  // [outputs, hidden] F32, before final_layernorm; of a chain, after it
  Tensor logits;  // [outputs, vocab] F32
};

}  // namespace m3
