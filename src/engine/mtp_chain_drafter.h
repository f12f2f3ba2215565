// Drafts of multi-token prediction modules that were trained as a chain (MtpChain::kPostNorm;
// spec: training §3.1).
//
// There module k reads, at the slot of the model's row i, the token i + 1 + k and the state of
// module k - 1 at the same slot, and foresees the token i + 2 + k. So one pass over the modules
// drafts a token each, without a new slot: of the last token m, module 0 reads the rows up to m -
// 1; module 1 the same rows, the last with the first draft; and so on. The last k rows of module k
// were computed with drafts, and are computed again when the tokens are known: for that the state
// in front of them is kept.
//
// More drafts than modules are drafted as if those before had been verified, and the states of the
// modules at the last row were the model's at the slots behind it: nobody was trained on that.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "engine/draft_chain.h"
#include "model/model.h"

namespace m3 {

class MtpChainDrafter final : public Drafter {
 public:
  // `model` has MTP modules and outlives the drafter.
  explicit MtpChainDrafter(const Model& model);

  Status attach(const PagedCache& cache, std::int64_t rows, std::int64_t sequences) override;
  bool needs_final_hidden() const override { return true; }
  std::vector<std::vector<std::int32_t>> draft(const VerifiedStep& step) override;
  void forget(SequenceId sequence) override { handed_.erase(sequence); }

 private:
  // Where the modules of a sequence go on: module k at slots[k] + 1 is its next row but for that at
  // slots[k], which needs the state of module k - 1 there.
  struct Handed {
    std::vector<std::optional<std::int64_t>> slots;  // [modules]; of the first never
    Buffer memory;
    Tensor states;  // [modules, hidden]
  };
  struct Chain;

  Handed make_handed() const;
  Handed& handed_of(SequenceId sequence);
  std::vector<Chain> chains_of(const VerifiedStep& step);
  // All modules over the rows of the chains; `states` holds the model's. Adds to their drafts.
  void pass(const VerifiedStep& step, const Tensor& states, std::vector<Chain>& chains);
  Batch rows_of(const VerifiedStep& step, std::int64_t module, std::vector<Chain>& chains) const;
  void gather_states(std::int64_t module, const Tensor& before, std::vector<Chain>& chains) const;
  void take_drafts(std::int64_t module, const VerifiedStep& step, const Tensor& logits,
                   std::vector<Chain>& chains);
  // Those that may draft more tokens and have the pages for them, a row later for each drafted.
  std::vector<Chain> carried_on(std::vector<Chain> chains, std::int64_t page_tokens) const;

  const Model& model_;
  std::int64_t modules_;
  std::map<SequenceId, Handed> handed_;
  Buffer memory_;
  Tensor gathered_;  // [rows, hidden]: what a module's rows continue
  Tensor ahead_;     // [sequences * modules, hidden]: states of the modules at the last row
  Sampler sampler_;
};

// The drafter that the model's modules are for.
std::unique_ptr<Drafter> make_mtp_drafter(const Model& model);

}  // namespace m3
