// What drafters share that draft one token from the hidden state behind the one before (spec:
// text-model §5.4): first one step over the verified rows, then a row for each further draft.
#pragma once

#include <functional>

#include "engine/drafter.h"

namespace m3 {

// Rows of the drafting layer: at the slots of the model's rows, each with the token behind it.
struct ChainRows {
  Batch batch;
  // [rows]: what each continues: a row of the model's step, or of the last outputs.
  std::vector<std::int32_t> sources;
};

// Of the rows that the batch lists as outputs, until the next step.
struct ChainOutputs {
  Tensor hidden;  // [outputs, hidden]
  Tensor logits;  // [outputs, vocab]
};

// All verified rows of the step. The last of each sequence that drafts is an output.
ChainRows verified_rows(const VerifiedStep& step);

// The draft behind `drafted` others, from row `output` of `logits`, with the noise of the very draw
// that it foresees: where the drafter's logits are those of the model, so is the draft, at any
// temperature. Below 0: no number to draw from.
std::int32_t draw_draft(const DraftJob& job, std::int64_t drafted, const Tensor& logits,
                        std::int64_t output, Sampler& sampler);

// Drafts on from `first`, the outputs of verified_rows(). `run` takes the rows of the tokens that
// were drafted last, so many of each sequence; all are outputs.
using RunChain = std::function<ChainOutputs(ChainRows rows, std::int64_t drafted)>;
std::vector<std::vector<std::int32_t>> draft_chains(const VerifiedStep& step, ChainOutputs first,
                                                    const RunChain& run, Sampler& sampler);

}  // namespace m3
