// Steps of MTP modules as a drafter takes them: what is drafted beside or before changes nothing.
#include "model/mtp.h"

#include <gtest/gtest.h>

#include "engine/page_tree.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

using Ids = std::vector<std::int32_t>;

Ids some_ids(std::int32_t seed, std::int64_t length) {
  Ids ids;
  for (std::int64_t i = 0; i < length; ++i)
    ids.push_back(static_cast<std::int32_t>((seed * 37 + i * i * 11 + i) % 900));
  return ids;
}

std::vector<float> floats(const Tensor& t) {
  return {t.as<float>(), t.as<float>() + t.elements()};
}

std::vector<float> last_row(const Tensor& t) {
  return floats(t.rows(t.dim(0) - 1, t.dim(0)));
}

// One sequence in the pages that it is given, of a cache that others may use.
class Drafting : public testing::Test {
 protected:
  static constexpr std::int64_t kModule = 1;
  static constexpr std::int64_t kPages = 24;

  Drafting()
      : cache_(std::move(*PagedCache::create(tiny_.model->config(), tiny_.model->cache_format(),
                                             kPages, tiny_.model->mtp_modules()))) {}

  Batch batch(const Ids& ids, std::int64_t slot, const Ids& pages) const {
    Batch rows;
    rows.add_sequence(ids, slot, pages, /*all_outputs=*/false);
    rows.want_last();
    return rows;
  }

  // The model, then the module, over ids [begin, end); the module's answer to the last of them.
  // Needs ids[end].
  std::vector<float> verify(const Ids& ids, std::int64_t begin, std::int64_t end,
                            const Ids& pages) {
    Batch rows = batch({ids.begin() + begin, ids.begin() + end}, begin, pages);
    rows.keep_final = true;
    logits_ = floats(tiny_.model->forward(rows, cache_, arena_));
    MtpInput input{.module = kModule, .hidden = arena_.activations().final_hidden, .sources = {}};
    for (std::int32_t i = 0; i < end - begin; ++i) input.sources.push_back(i);
    drafted_ = tiny_.model->forward_mtp(
        input, batch({ids.begin() + begin + 1, ids.begin() + end + 1}, begin, pages), cache_,
        arena_);
    return floats(drafted_.logits);
  }

  // Continues the last step by one row.
  std::vector<float> draft(std::int32_t id, std::int64_t slot, const Ids& pages) {
    const MtpInput input{.module = kModule, .hidden = drafted_.hidden, .sources = {0}};
    drafted_ = tiny_.model->forward_mtp(input, batch({id}, slot, pages), cache_, arena_);
    return floats(drafted_.logits);
  }

  TinyModel tiny_{tiny_model_directory("nano-mtp"), {"cpu", ""}, 2};
  PagedCache cache_;
  ActivationArena arena_{tiny_.model->config(), 128, 128};
  MtpOutputs drafted_;
  std::vector<float> logits_;
};

const Ids kPagesA = {0, 1, 2, 3, 4, 5, 6, 7};
const Ids kPagesB = {15, 9, 12, 8, 10, 14, 11, 13};

// Rejected drafts leave K, V and index keys behind, of which nothing may be seen again.
TEST_F(Drafting, RejectedDraftsLeaveNoTrace) {
  const Ids ids = some_ids(1, 90);
  verify(ids, 0, 60, kPagesA);
  const auto plain = verify(ids, 60, 80, kPagesA);
  const auto plain_logits = logits_;

  verify(ids, 0, 60, kPagesB);
  for (std::int32_t k = 0; k < 9; ++k) draft(500 + k, 60 + k, kPagesB);
  const auto after = verify(ids, 60, 80, kPagesB);
  EXPECT_EQ(plain, after);
  EXPECT_EQ(plain_logits, logits_);
}

// The first draft is of the module's own answer; the chain from there depends on nothing else.
TEST_F(Drafting, AChainIsTheSameInAnyCut) {
  const Ids ids = some_ids(2, 70);
  verify(ids, 0, 65, kPagesA);
  std::vector<std::vector<float>> plain;
  for (std::int32_t k = 0; k < 5; ++k) plain.push_back(draft(100 + k, 65 + k, kPagesA));
  for (const std::int64_t cut : {1, 16, 40}) {
    verify(ids, 0, cut, kPagesB);
    verify(ids, cut, 65, kPagesB);
    for (std::int32_t k = 0; k < 5; ++k)
      EXPECT_EQ(plain[static_cast<std::size_t>(k)], draft(100 + k, 65 + k, kPagesB)) << k;
  }
  EXPECT_NE(plain[0], plain[1]);
}

// Two sequences in one draft step, which continue rows in another order.
TEST_F(Drafting, NeighboursInAStep) {
  const Ids a = some_ids(3, 41), b = some_ids(4, 31);
  verify(a, 0, 40, kPagesA);
  const auto plain_a = draft(7, 40, kPagesA);
  verify(b, 0, 30, kPagesB);
  const auto plain_b = draft(8, 30, kPagesB);

  verify(a, 0, 40, kPagesA);
  Buffer kept(2 * tiny_.model->config().hidden * 4);
  const Tensor hidden = kept.tensor(DType::kF32, {2, tiny_.model->config().hidden});
  std::copy_n(drafted_.hidden.as<float>(), hidden.dim(1), hidden.row<float>(1));
  verify(b, 0, 30, kPagesB);
  std::copy_n(drafted_.hidden.as<float>(), hidden.dim(1), hidden.row<float>(0));
  Batch both;
  both.add_sequence(Ids{7}, 40, kPagesA, /*all_outputs=*/true);
  both.add_sequence(Ids{8}, 30, kPagesB, /*all_outputs=*/true);
  const MtpInput input{.module = kModule, .hidden = hidden, .sources = {1, 0}};
  const MtpOutputs out = tiny_.model->forward_mtp(input, both, cache_, arena_);
  EXPECT_EQ(plain_a, floats(out.logits.rows(0, 1)));
  EXPECT_EQ(plain_b, last_row(out.logits));
}

// Keeping every row's final state changes no logits; a step may want none.
TEST_F(Drafting, WhatIsKeptChangesNothing) {
  const Ids ids = some_ids(5, 50);
  Batch rows = batch(ids, 0, kPagesA);
  const auto plain = floats(tiny_.model->forward(rows, cache_, arena_));
  rows.keep_final = true;
  EXPECT_EQ(plain, floats(tiny_.model->forward(rows, cache_, arena_)));
  rows.outputs.clear();
  EXPECT_EQ(tiny_.model->forward(rows, cache_, arena_).dim(0), 0);

  MtpInput input{.module = 0, .hidden = arena_.activations().final_hidden, .sources = {0}};
  Batch first = batch({ids[1]}, 0, kPagesA);
  first.outputs.clear();
  EXPECT_EQ(tiny_.model->forward_mtp(input, first, cache_, arena_).hidden.dim(0), 0);
}

}  // namespace
}  // namespace m3
