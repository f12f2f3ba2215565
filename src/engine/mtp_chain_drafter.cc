#include "engine/mtp_chain_drafter.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/mtp_drafter.h"
#include "engine/page_tree.h"
#include "tensor/layout.h"

namespace m3 {

// One sequence of a pass. Slots count rows.
struct MtpChainDrafter::Chain {
  std::size_t index = 0;  // of the step's jobs
  const DraftJob* job = nullptr;
  Handed* handed = nullptr;
  std::int64_t begin = 0, end = 0;  // the model's rows of this pass
  std::int64_t known = 0;           // the last token that is no draft of this pass
  std::int64_t state_row = 0;       // of the model's states: that of `begin`
  bool drafting = false;            // each module so far has drafted one
  std::vector<std::int32_t> drafts = {};

  // Of the module that runs: its rows, and the first of them in the batch; of the one before.
  std::int64_t first = 0, last = 0, row = 0;
  std::int64_t first_before = 0, row_before = 0;

  // A module's rows end here while no draft is known.
  std::int64_t known_end(std::int64_t module) const { return std::min(end, known - module); }
  std::int64_t rows() const { return std::max<std::int64_t>(0, last - first); }
  std::int32_t token(std::int64_t i) const {
    const std::int64_t given = std::ssize(job->tokens);
    return i < given ? job->tokens[static_cast<std::size_t>(i)]
                     : drafts[static_cast<std::size_t>(i - given)];
  }
};

MtpChainDrafter::MtpChainDrafter(const Model& model)
    : model_(model), modules_(model.mtp_modules()) {
  M3_CHECK(modules_ > 0, "a model without MTP modules");
}

Status MtpChainDrafter::attach(const PagedCache&, std::int64_t rows, std::int64_t sequences) {
  const std::int64_t hidden = model_.config().hidden;
  const Placement placements[] = {{&gathered_, DType::kF32, {rows, hidden}},
                                  {&ahead_, DType::kF32, {sequences * modules_, hidden}}};
  memory_ = lay_out(placements);
  return {};
}

MtpChainDrafter::Handed MtpChainDrafter::make_handed() const {
  Handed handed;
  handed.slots.resize(static_cast<std::size_t>(modules_));
  const Placement placements[] = {
      {&handed.states, DType::kF32, {modules_, model_.config().hidden}}};
  handed.memory = lay_out(placements);
  return handed;
}

MtpChainDrafter::Handed& MtpChainDrafter::handed_of(SequenceId sequence) {
  const auto found = handed_.find(sequence);
  return found != handed_.end() ? found->second
                                : handed_.emplace(sequence, make_handed()).first->second;
}

std::vector<std::vector<std::int32_t>> MtpChainDrafter::draft(const VerifiedStep& step) {
  std::vector<Chain> chains = chains_of(step);
  pass(step, step.arena.activations().final_hidden, chains);
  std::vector<std::vector<std::int32_t>> drafts(step.jobs.size());
  std::vector<Handed> guessed;  // what is handed on behind drafts
  guessed.reserve(chains.size());
  for (bool first = true;; first = false) {
    for (const Chain& chain : chains) drafts[chain.index] = chain.drafts;
    chains = carried_on(std::move(chains), step.cache.page_tokens());
    if (chains.empty()) return drafts;
    for (Chain& chain : chains) {
      if (!first) break;
      Handed& copy = guessed.emplace_back(make_handed());
      copy.slots = chain.handed->slots;
      model_.backend().copy(chain.handed->states, copy.states);
      chain.handed = &copy;
    }
    pass(step, ahead_, chains);
  }
}

// Sequences that begin alike share pages: of those that do, the first alone writes there.
std::vector<MtpChainDrafter::Chain> MtpChainDrafter::chains_of(const VerifiedStep& step) {
  const std::int64_t page_tokens = step.cache.page_tokens();
  std::set<std::int32_t> taken;
  std::vector<Chain> chains;
  for (std::size_t i = 0; i < step.jobs.size(); ++i) {
    const DraftJob& job = step.jobs[i];
    Chain chain{.index = i, .job = &job, .begin = job.slot, .end = job.slot + job.rows};
    const auto page_of = [&](std::int64_t slot) {
      return job.pages[static_cast<std::size_t>(slot / page_tokens)];
    };
    const auto is_taken = [&](std::int64_t slot) { return taken.contains(page_of(slot)); };
    while (chain.begin < chain.end && is_taken(chain.begin))
      chain.begin = (chain.begin / page_tokens + 1) * page_tokens;
    chain.begin = std::min(chain.begin, chain.end);
    // Modules compute the rows before `begin` again, if they may.
    const std::int64_t again = std::max<std::int64_t>(0, chain.begin - modules_ + 1);
    bool goes_on = chain.begin == job.slot;
    for (std::int64_t slot = again; slot < chain.begin; ++slot) goes_on &= !is_taken(slot);
    chain.handed = &handed_of(job.sequence);
    if (!goes_on) std::ranges::fill(chain.handed->slots, std::nullopt);
    if (chain.begin == chain.end) continue;
    for (std::int64_t slot = again; slot < chain.end; ++slot) taken.insert(page_of(slot));
    chain.known = std::ssize(job.tokens) - 1;
    chain.state_row = job.first_row + chain.begin - job.slot;
    chain.drafting = job.count > 0;
    chains.push_back(std::move(chain));
  }
  return chains;
}

void MtpChainDrafter::pass(const VerifiedStep& step, const Tensor& states,
                           std::vector<Chain>& chains) {
  for (std::int64_t module = 0; module < modules_; ++module) {
    Batch batch = rows_of(step, module, chains);
    gather_states(module, module == 0 ? states : step.arena.activations().final_hidden, chains);
    if (batch.rows() == 0) continue;
    MtpInput input{.module = module, .hidden = gathered_, .sources = {}};
    for (std::int32_t row = 0; row < batch.rows(); ++row) input.sources.push_back(row);
    const MtpOutputs outputs = model_.forward_mtp(input, std::move(batch), step.cache, step.arena);
    take_drafts(module, step, outputs.logits, chains);
  }
}

Batch MtpChainDrafter::rows_of(const VerifiedStep& step, std::int64_t module,
                               std::vector<Chain>& chains) const {
  std::int64_t room = step.arena.tokens();
  for (Chain& chain : chains) {
    chain.first_before = chain.first;
    chain.row_before = chain.row;
    const std::int64_t before = chain.first_before - 1;
    chain.first = module == 0
                      ? chain.begin
                      : chain.first_before -
                            (chain.handed->slots[static_cast<std::size_t>(module)] == before);
    chain.last = chain.known_end(module);
    room -= chain.rows();
  }
  Batch batch;
  batch.keep_final = true;
  for (Chain& chain : chains) {
    const DraftJob& job = *chain.job;
    const std::int64_t known_rows = chain.rows();
    if (std::ssize(chain.drafts) >= job.count || room < chain.end - chain.first - known_rows)
      chain.drafting = false;
    if (chain.drafting) {
      chain.last = chain.end;
      room -= chain.rows() - known_rows;
    }
    chain.row = batch.rows();
    if (chain.rows() == 0) continue;
    std::vector<std::int32_t> ids;
    for (std::int64_t slot = chain.first; slot < chain.last; ++slot)
      ids.push_back(chain.token(slot + 1 + module));
    const auto pages = static_cast<std::size_t>(pages_of(chain.last, step.cache.page_tokens()));
    batch.add_sequence(ids, chain.first, job.pages.first(pages), /*all_outputs=*/false);
    if (chain.drafting) batch.want_last();
  }
  return batch;
}

// From `before`, the states in front of this module, and what was kept of an earlier step; then
// keeps what the next step will want.
void MtpChainDrafter::gather_states(std::int64_t module, const Tensor& before,
                                    std::vector<Chain>& chains) const {
  Backend& backend = model_.backend();
  for (const Chain& chain : chains) {
    const std::int64_t begin = module == 0 ? chain.begin : chain.first_before;
    const std::int64_t begin_row = module == 0 ? chain.state_row : chain.row_before;
    const Tensor kept = chain.handed->states.rows(module, module + 1);
    std::int64_t row = chain.row, slot = chain.first;
    if (chain.rows() > 0 && slot < begin) {
      backend.copy(kept, gathered_.rows(row, row + 1));
      ++row, ++slot;
    }
    if (const std::int64_t count = chain.last - slot; count > 0)
      backend.copy(before.rows(begin_row + slot - begin, begin_row + slot - begin + count),
                   gathered_.rows(row, row + count));
    if (module == 0) continue;
    const std::int64_t next = chain.known_end(module);
    auto& kept_slot = chain.handed->slots[static_cast<std::size_t>(module)];
    kept_slot.reset();
    if (next < begin || next >= chain.known_end(module - 1)) continue;
    backend.copy(before.rows(begin_row + next - begin, begin_row + next - begin + 1), kept);
    kept_slot = next;
  }
}

void MtpChainDrafter::take_drafts(std::int64_t module, const VerifiedStep& step,
                                  const Tensor& logits, std::vector<Chain>& chains) {
  const Tensor& states = step.arena.activations().final_hidden;
  std::int64_t output = 0;
  for (std::size_t i = 0; i < chains.size(); ++i) {
    Chain& chain = chains[i];
    if (!chain.drafting) continue;
    const std::int32_t id =
        draw_draft(*chain.job, std::ssize(chain.drafts), logits, output++, sampler_);
    chain.drafting = id >= 0;
    if (!chain.drafting) continue;
    chain.drafts.push_back(id);
    const std::int64_t last = chain.row + chain.rows() - 1;
    const std::int64_t place = static_cast<std::int64_t>(chain.index) * modules_ + module;
    model_.backend().copy(states.rows(last, last + 1), ahead_.rows(place, place + 1));
  }
}

std::vector<MtpChainDrafter::Chain> MtpChainDrafter::carried_on(std::vector<Chain> chains,
                                                                std::int64_t page_tokens) const {
  std::erase_if(chains, [&](const Chain& chain) {
    return !chain.drafting || std::ssize(chain.drafts) >= chain.job->count ||
           chain.end + modules_ > std::ssize(chain.job->pages) * page_tokens;
  });
  for (Chain& chain : chains) {
    chain.begin = chain.end;
    chain.end += modules_;
    chain.known += modules_;
    chain.state_row = static_cast<std::int64_t>(chain.index) * modules_;
  }
  return chains;
}

std::unique_ptr<Drafter> make_mtp_drafter(const Model& model) {
  if (model.config().mtp_chain == MtpChain::kPostNorm)
    return std::make_unique<MtpChainDrafter>(model);
  return std::make_unique<MtpDrafter>(model);
}

}  // namespace m3
