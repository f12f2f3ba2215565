#include "engine/schedule.h"

#include <algorithm>
#include <map>

#include "engine/page_tree.h"

namespace m3 {
namespace {

class Planner {
 public:
  explicit Planner(const StepView& view)
      : view_(view), available_(view.available), rows_left_(view.step_rows) {
    for (const SequenceView& s : view.sequences) (s.running ? running_ : waiting_).push_back(&s);
  }

  StepPlan plan() {
    decode();
    admit();
    prefill();
    return std::move(plan_);
  }

 private:
  static std::int64_t missing(const SequenceView& s) { return s.tokens - s.cached; }
  static bool decodes(const SequenceView& s) { return missing(s) == 1; }
  std::int64_t pages_for(std::int64_t tokens) const { return pages_of(tokens, view_.page_tokens); }
  bool gave_way(const SequenceView& s) const { return std::ranges::count(plan_.preempt, s.id) > 0; }

  // Everybody who runs could use a row; drafts have what is left then.
  void decode() {
    std::int64_t draft_rows =
        std::max<std::int64_t>(0, view_.step_rows - static_cast<std::int64_t>(running_.size()));
    for (const SequenceView* s : running_) {
      if (!decodes(*s) || gave_way(*s) || rows_left_ == 0) continue;
      std::int64_t drafts = std::min(s->drafts, draft_rows);
      if (missing_pages(*s, 1 + drafts) > available_) drafts = 0;
      if (!make_room(*s, missing_pages(*s, 1))) continue;
      available_ -= missing_pages(*s, 1 + drafts);
      draft_rows -= drafts;
      rows_left_ -= 1 + drafts;
      plan_.rows.push_back({s->id, 1 + drafts, drafts});
    }
  }

  std::int64_t missing_pages(const SequenceView& s, std::int64_t rows) const {
    return std::max<std::int64_t>(0, pages_for(s.cached + rows) - s.pages);
  }

  // Lets others give way, the last first, until `pages` are there. False: `s` was the last itself.
  bool make_room(const SequenceView& s, std::int64_t pages) {
    while (pages > available_) {
      const auto last = std::find_if(running_.rbegin(), running_.rend(),
                                     [&](const SequenceView* other) { return !gave_way(*other); });
      plan_.preempt.push_back((*last)->id);
      available_ += (*last)->alone;
      if (*last == &s) return false;
    }
    return true;
  }

  // What gave way in this step has pages to gain only by the next.
  void admit() {
    if (!plan_.preempt.empty()) return;
    auto places = view_.sequences_max - static_cast<std::int64_t>(running_.size());
    std::map<std::int64_t, double> served;
    for (; places > 0 && !waiting_.empty() && prefillers() < prefill_left(); --places) {
      const auto next = next_waiting(served);
      const SequenceView& s = **next;
      const std::int64_t pages = pages_for(s.tokens) - s.pages + s.idle;
      const auto reserve = static_cast<std::int64_t>(running_.size() + admitted_.size());
      if (pages + reserve > available_) return;
      available_ -= pages;
      served.try_emplace(s.client, s.client_served).first->second +=
          static_cast<double>(missing(s));
      plan_.admit.push_back(s.id);
      admitted_.push_back(&s);
      waiting_.erase(next);
    }
  }

  std::vector<const SequenceView*>::iterator next_waiting(
      const std::map<std::int64_t, double>& served) {
    const auto had = [&](const SequenceView& s) {
      const auto found = served.find(s.client);
      return found == served.end() ? s.client_served : found->second;
    };
    // The first of the best: `waiting_` is in order of arrival.
    return std::min_element(waiting_.begin(), waiting_.end(),
                            [&](const SequenceView* a, const SequenceView* b) {
                              if (a->preempted != b->preempted) return a->preempted;
                              return !a->preempted && had(*a) < had(*b);
                            });
  }

  std::int64_t prefill_left() const { return std::min(view_.prefill_rows, rows_left_); }
  std::int64_t prefillers() const {
    return static_cast<std::int64_t>(admitted_.size()) +
           std::count_if(running_.begin(), running_.end(),
                         [&](const SequenceView* s) { return !decodes(*s) && !gave_way(*s); });
  }

  void prefill() {
    std::vector<const SequenceView*> readers = admitted_;
    std::copy_if(running_.begin(), running_.end(), std::back_inserter(readers),
                 [&](const SequenceView* s) { return !decodes(*s) && !gave_way(*s); });
    std::ranges::stable_sort(readers, {}, [](const SequenceView* s) { return missing(*s); });
    std::int64_t left = prefill_left();
    auto count = static_cast<std::int64_t>(readers.size());
    for (const SequenceView* s : readers) {
      if (left == 0) return;
      const std::int64_t share = std::max<std::int64_t>(1, left / count--);
      const std::int64_t rows = std::min(missing(*s), share);
      plan_.rows.push_back({s->id, rows, 0});
      left -= rows;
    }
  }

  const StepView& view_;
  std::int64_t available_;
  std::int64_t rows_left_;
  std::vector<const SequenceView*> running_, waiting_, admitted_;
  StepPlan plan_;
};

}  // namespace

StepPlan plan_step(const StepView& view) {
  return Planner(view).plan();
}

}  // namespace m3
