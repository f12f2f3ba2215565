#include "engine/eagle3_drafter.h"

#include <algorithm>
#include <limits>

namespace m3 {

Eagle3Drafter::Eagle3Drafter(const Model& model, std::unique_ptr<Eagle3> draft_model)
    : model_(model),
      draft_model_(std::move(draft_model)),
      taps_(model, draft_model_->config().taps) {}

Status Eagle3Drafter::attach(const PagedCache& cache, std::int64_t rows, std::int64_t sequences) {
  M3_TRY(cache_, draft_model_->make_cache(cache.pages()));
  arena_.emplace(draft_model_->config(), rows, sequences);
  taps_.make_room(rows, model_.config().hidden);
  const std::int64_t logits = sequences * model_.config().vocab;
  token_logits_ = Buffer(logits * dtype_size(DType::kF32));
  std::fill_n(token_logits_.tensor(DType::kF32, {logits}).as<float>(), logits,
              -std::numeric_limits<float>::infinity());
  return {};
}

bool Eagle3Drafter::needs_final_hidden() const {
  return std::ranges::count(draft_model_->config().taps, model_.config().layers) > 0;
}

void Eagle3Drafter::Taps::make_room(std::int64_t rows, std::int64_t hidden) {
  const std::int64_t bytes = rows * hidden * dtype_size(DType::kF32);
  memory_ = Buffer(std::ssize(places_) * bytes);
  for (std::int64_t i = 0; i < std::ssize(places_); ++i)
    tensors_.emplace_back(memory_.data() + i * bytes, DType::kF32,
                          std::initializer_list<std::int64_t>{rows, hidden});
}

void Eagle3Drafter::Taps::keep(std::int64_t place, const Tensor& hidden) const {
  for (std::size_t i = 0; i < places_.size(); ++i)
    if (places_[i] == place) backend_.copy(hidden, tensors_[i].rows(0, hidden.dim(0)));
}

std::vector<std::vector<std::int32_t>> Eagle3Drafter::draft(const VerifiedStep& step) {
  if (step.jobs.empty()) return {};
  ChainRows rows = verified_rows(step);
  draft_model_->fuse(taps_.tensors(), rows.sources, *arena_);
  const ChainOutputs first = run(std::move(rows));
  const auto go_on = [&](ChainRows next, std::int64_t) {
    draft_model_->carry_on(next.sources, *arena_);
    return run(std::move(next));
  };
  return draft_chains(step, first, go_on, sampler_);
}

// The logits of draft ids at the places of the tokens that they are.
ChainOutputs Eagle3Drafter::run(ChainRows rows) {
  const Eagle3Outputs outputs = draft_model_->forward(rows.batch, *cache_, *arena_);
  const auto& tokens = draft_model_->weights().target_ids;
  const std::int64_t count = outputs.logits.dim(0);
  const Tensor logits = token_logits_.tensor(DType::kF32, {count, model_.config().vocab});
  for (std::int64_t row = 0; row < count; ++row)
    for (std::size_t id = 0; id < tokens.size(); ++id)
      logits.row<float>(row)[tokens[id]] = outputs.logits.row<float>(row)[id];
  return {outputs.hidden, logits};
}

}  // namespace m3
