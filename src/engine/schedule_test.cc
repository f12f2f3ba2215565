#include "engine/schedule.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

StepView view_of(std::vector<SequenceView> sequences) {
  return {.sequences = std::move(sequences),
          .available = 100,
          .page_tokens = 10,
          .step_rows = 50,
          .prefill_rows = 40,
          .sequences_max = 4};
}

// `tokens` of which all but the last are stored.
SequenceView decoding(SequenceId id, std::int64_t tokens, std::int64_t drafts = 0) {
  return {.id = id,
          .running = true,
          .tokens = tokens,
          .cached = tokens - 1,
          .pages = (tokens + 9) / 10,
          .alone = (tokens + 9) / 10,
          .drafts = drafts};
}
SequenceView reading(SequenceId id, std::int64_t tokens, std::int64_t cached) {
  return {.id = id,
          .running = true,
          .tokens = tokens,
          .cached = cached,
          .pages = (tokens + 9) / 10,
          .alone = (tokens + 9) / 10};
}
SequenceView waiting(SequenceId id, std::int64_t tokens, std::int64_t client = 0,
                     double served = 0) {
  return {.id = id, .tokens = tokens, .client = client, .client_served = served};
}

std::string rows_of(const StepPlan& plan) {
  std::string text;
  for (const StepPlan::Rows& r : plan.rows)
    text += std::to_string(r.id) + ":" + std::to_string(r.rows - r.drafts) +
            (r.drafts > 0 ? "+" + std::to_string(r.drafts) : "") + " ";
  return text;
}
using Ids = std::vector<SequenceId>;

TEST(PlanStep, WhoDecodesComesFirstAndPromptsShareTheRest) {
  EXPECT_EQ(rows_of(plan_step(view_of(
                {reading(1, 500, 100), decoding(2, 15), reading(3, 30, 20), decoding(4, 15)}))),
            "2:1 4:1 3:10 1:30 ");
  // All of a prompt but its last token is stored: one row, like who decodes.
  EXPECT_EQ(rows_of(plan_step(view_of({reading(1, 100, 99), reading(2, 500, 0)}))), "1:1 2:40 ");
}

TEST(PlanStep, DraftsTakeRowsThatAreLeft) {
  auto view = view_of({decoding(1, 11, 4), decoding(2, 11, 4)});
  EXPECT_EQ(rows_of(plan_step(view)), "1:1+4 2:1+4 ");
  view.step_rows = 7;
  EXPECT_EQ(rows_of(plan_step(view)), "1:1+4 2:1+1 ");
  view.step_rows = 2;
  EXPECT_EQ(rows_of(plan_step(view)), "1:1 2:1 ");
}

TEST(PlanStep, DraftsNeverTakeTheLastPage) {
  auto view = view_of({decoding(1, 18, 4)});  // 17 stored: room for 3 rows
  view.available = 0;
  EXPECT_EQ(rows_of(plan_step(view)), "1:1 ");
  view.available = 1;
  EXPECT_EQ(rows_of(plan_step(view)), "1:1+4 ");
}

TEST(PlanStep, AdmitsInOrderOfArrival) {
  auto view = view_of({waiting(1, 15), waiting(2, 15), waiting(3, 15)});
  view.sequences_max = 2;
  const StepPlan plan = plan_step(view);
  EXPECT_EQ(plan.admit, (Ids{1, 2}));
  EXPECT_EQ(rows_of(plan), "1:15 2:15 ");
}

TEST(PlanStep, ClientsTakeTurns) {
  const auto view = view_of({waiting(1, 15, 7), waiting(2, 15, 7), waiting(3, 15, 7),
                             waiting(4, 15, 8, 20), waiting(5, 15, 8, 20)});
  EXPECT_EQ(plan_step(view).admit, (Ids{1, 2, 4, 3}));
}

TEST(PlanStep, WhoGaveWayComesFirst) {
  auto view = view_of({waiting(1, 15), waiting(2, 15)});
  view.sequences[1].preempted = true;
  view.sequences_max = 1;
  EXPECT_EQ(plan_step(view).admit, (Ids{2}));
}

TEST(PlanStep, NobodyOvertakesWhoWaitsForRoom) {
  auto view = view_of({decoding(1, 15), waiting(2, 200), waiting(3, 15)});
  view.available = 20;  // 20 pages, and one for the first to grow
  EXPECT_EQ(plan_step(view).admit, Ids{});
  view.available = 21;
  EXPECT_EQ(plan_step(view).admit, (Ids{2}));
  // Pages that it would share count, unless they are counted as available, too.
  view.available = 20;
  view.sequences[1].pages = 3;
  view.sequences[1].idle = 3;
  EXPECT_EQ(plan_step(view).admit, Ids{});
  view.sequences[1].idle = 2;
  EXPECT_EQ(plan_step(view).admit, (Ids{2}));
}

TEST(PlanStep, OneAloneIsAdmittedWhereItFitsExactly) {
  auto view = view_of({waiting(1, 200), waiting(2, 15)});
  view.available = 20;
  EXPECT_EQ(plan_step(view).admit, (Ids{1}));
}

TEST(PlanStep, TheLastGivesWayAndNobodyIsAdmittedThen) {
  auto view = view_of({decoding(1, 21), decoding(2, 21), reading(3, 30, 0), waiting(4, 5)});
  for (auto& s : view.sequences) s.pages = 2;  // each that decodes needs another page
  view.available = 1;
  view.sequences[2].alone = 2;
  const StepPlan plan = plan_step(view);
  EXPECT_EQ(plan.preempt, (Ids{3}));
  EXPECT_EQ(plan.admit, Ids{});
  EXPECT_EQ(rows_of(plan), "1:1 2:1 ");
}

TEST(PlanStep, WhoWouldHaveToGiveWayToItselfDoes) {
  auto view = view_of({decoding(1, 21), decoding(2, 21)});
  for (auto& s : view.sequences) s.pages = 2;
  view.available = 1;
  const StepPlan plan = plan_step(view);
  EXPECT_EQ(plan.preempt, (Ids{2}));
  EXPECT_EQ(rows_of(plan), "1:1 ");
}

}  // namespace
}  // namespace m3
