// Drafts of an EAGLE3 draft model (spec: text-model §6; model/eagle3.h).
#pragma once

#include <memory>
#include <optional>

#include "engine/draft_chain.h"
#include "model/eagle3.h"
#include "model/model.h"

namespace m3 {

class Eagle3Drafter final : public Drafter {
 public:
  // `model`, for which `draft_model` was loaded, outlives the drafter.
  Eagle3Drafter(const Model& model, std::unique_ptr<Eagle3> draft_model);

  std::int64_t page_bytes() const override { return draft_model_->page_bytes(); }
  // Makes a cache of its own, with as many pages, and room for the taps.
  Status attach(const PagedCache& cache, std::int64_t rows, std::int64_t sequences) override;
  // Otherwise the last layer computes only rows whose logits are wanted.
  bool needs_final_hidden() const override;
  Watch* watch() override { return &taps_; }
  std::vector<std::vector<std::int32_t>> draft(const VerifiedStep& step) override;

 private:
  // Copies of the model's hidden states.
  class Taps final : public Watch {
   public:
    Taps(const Model& model, const std::vector<std::int64_t>& places)
        : backend_(model.backend()), places_(places) {}
    void make_room(std::int64_t rows, std::int64_t hidden);
    void saw_embedded(const Tensor& hidden) override { keep(0, hidden); }
    void saw_hidden(std::int64_t layer, const Tensor& hidden) override { keep(layer + 1, hidden); }
    std::span<const Tensor> tensors() const { return tensors_; }

   private:
    void keep(std::int64_t place, const Tensor& hidden) const;
    Backend& backend_;
    const std::vector<std::int64_t>& places_;
    std::vector<Tensor> tensors_;  // [rows, hidden] each
    Buffer memory_;
  };

  ChainOutputs run(ChainRows rows);

  const Model& model_;
  std::unique_ptr<Eagle3> draft_model_;
  Taps taps_;
  std::optional<PagedCache> cache_;
  std::optional<Eagle3Arena> arena_;
  Buffer token_logits_;  // [sequences, vocab] F32, of the model's ids; never, where none is drafted
  Sampler sampler_;
};

}  // namespace m3
