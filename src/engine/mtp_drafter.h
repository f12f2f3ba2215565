// Drafts of the model's own multi-token prediction modules (spec: text-model §5.4; model/mtp.h).
#pragma once

#include "engine/draft_chain.h"
#include "model/model.h"

namespace m3 {

// The j-th draft of a step comes from module j mod modules. A module's rows at drafted slots are
// those that it drafted from itself; with several modules it meets some of other rounds there,
// which costs acceptance and nothing else.
class MtpDrafter final : public Drafter {
 public:
  // `model` has MTP modules and outlives the drafter.
  explicit MtpDrafter(const Model& model);

  bool needs_final_hidden() const override { return true; }
  std::vector<std::vector<std::int32_t>> draft(const VerifiedStep& step) override;

 private:
  ChainOutputs run_verified(const VerifiedStep& step) const;

  const Model& model_;
  Sampler sampler_;
};

}  // namespace m3
