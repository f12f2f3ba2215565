#include "model/mtp.h"

#include "base/check.h"
#include "model/model.h"

namespace m3 {
namespace {

// No token comes before the first, and the module was trained on nothing in its place (spec:
// text-model §5.3): the row at position 0 sees an embedding of zeros.
void leave_out_first(Batch& batch) {
  for (std::size_t row = 0; row < batch.ids.size(); ++row)
    if (batch.slots[row] == 0) batch.ids[row] = -1;
  for (auto& [first, features] : batch.splices)
    if (batch.slots[static_cast<std::size_t>(first)] == 0) {
      ++first;
      features = features.rows(1, features.dim(0));
    }
}

}  // namespace

MtpOutputs Model::forward_mtp(const MtpInput& input, Batch batch, const PagedCache& cache,
                              ActivationArena& arena) const {
  M3_CHECK(input.module >= 0 && input.module < mtp_modules(), "MTP module {} of {}", input.module,
           mtp_modules());
  const MtpWeights& w = weights_.mtp[static_cast<std::size_t>(input.module)];
  const std::int64_t layer = config_.layers + input.module;
  const bool chained = config_.mtp_chain == MtpChain::kPostNorm;
  Watch nobody;
  if (!chained) leave_out_first(batch);
  const Step step = begin(batch, cache, activations_of(batch, arena), nobody);
  embed(batch, step.a);
  join(w, input, step.a);
  attention_half(layer, step);
  if (batch.keep_final) {
    feed_forward_half(layer, step.a, nobody);
    backend_.rms_norm(step.a.hidden, w.final_norm, eps(), step.a.final_hidden);
  }
  const Activations a = keep_outputs(step);
  if (a.hidden.dim(0) > 0) {
    if (!batch.keep_final) feed_forward_half(layer, a, nobody);
    backend_.rms_norm(a.hidden, w.final_norm, eps(), a.normed);
    head(a);
  }
  backend_.synchronize();
  return {.hidden = chained ? a.normed : a.hidden, .logits = a.logits};
}

void Model::join(const MtpWeights& w, const MtpInput& input, const Activations& a) const {
  copy_into(a.sources, input.sources);
  backend_.gather_rows(input.hidden, a.sources, a.branch);
  backend_.rms_norm(a.branch, w.hidden_norm, eps(), a.branch);
  backend_.rms_norm(a.hidden, w.embedding_norm, eps(), a.normed);
  backend_.concat(a.normed, a.branch, a.joined);
  linear(a, a.joined, {{&w.join, a.hidden}});
}

}  // namespace m3
