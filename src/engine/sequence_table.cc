#include "engine/sequence_table.h"

#include <algorithm>

#include "base/check.h"

namespace m3 {

using std::ssize;

SequenceId SequenceTable::add(Request request, std::unique_ptr<TokenConstraint> constraint) {
  const SequenceId id = next_id_++;
  Sequence& s = sequences_[id];
  s.tokens = request.prompt;
  s.answer_begin = ssize(s.tokens);
  for (const std::int32_t token : s.tokens) ++s.history.prompt[token];
  s.request = std::move(request);
  s.constraint = std::move(constraint);
  read_texts(s);
  const auto [client, is_new] = clients_.try_emplace(s.request.client);
  if (is_new) client->second.served = least_served();
  ++client->second.sequences;
  return id;
}

double SequenceTable::least_served() const {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [id, client] : clients_)
    if (client.sequences > 0) least = std::min(least, client.served);
  return least == std::numeric_limits<double>::infinity() ? 0 : least;
}

void SequenceTable::end(SequenceId id) {
  Sequence& s = at(id);
  if (s.given_back) return;
  s.given_back = true;
  s.state = Sequence::State::kDone;
  tree_.release(s.lease);
  const auto client = clients_.find(s.request.client);
  if (--client->second.sequences == 0) clients_.erase(client);
}

void SequenceTable::erase(SequenceId id) {
  M3_CHECK(holds(id), "no sequence {}", id);
  end(id);
  sequences_.erase(id);
}

// With another adapter every page is another one. The first says so for those below it.
PageText SequenceTable::text_of_page(const Sequence& s, std::int64_t page) const {
  const std::int64_t slot = page * options_.page_tokens;
  const auto begin = s.tokens.begin() + slot;
  std::vector<std::int64_t> items(begin, begin + options_.page_tokens);
  if (page == 0) items.push_back(s.request.adapter);
  s.request.media.add_marks(slot, options_.page_tokens, items);
  return PageText(std::move(items));
}

// The last token is always computed, since its logits are wanted: its page is never shared.
void SequenceTable::read_texts(Sequence& s) const {
  const std::int64_t full = (ssize(s.tokens) - 1) / options_.page_tokens;
  for (std::int64_t page = ssize(s.texts); page < full; ++page)
    s.texts.push_back(text_of_page(s, page));
}

std::int64_t SequenceTable::count(Sequence::State state) const {
  return std::ranges::count_if(sequences_,
                               [&](const auto& entry) { return entry.second.state == state; });
}

bool SequenceTable::anybody_decodes() const {
  return std::ranges::any_of(sequences_, [](const auto& entry) {
    const Sequence& s = entry.second;
    return s.running() && ssize(s.tokens) - s.cached == 1;
  });
}

// The pages that it need not compute itself: of a prompt whose tokens are to be scored those that
// have been.
std::span<const PageText> SequenceTable::findable(const Sequence& s) const {
  const std::span<const PageText> all(s.texts);
  if (s.unscored() == 0) return all;
  const auto scored = s.scores.size() / static_cast<std::size_t>(options_.page_tokens);
  return all.first(std::min(all.size(), scored));
}

void SequenceTable::view_running(const Sequence& s, std::int64_t drafts, SequenceView& v) const {
  v.running = true;
  v.cached = s.cached;
  v.pages = ssize(s.lease.pages);
  v.alone = tree_.held_alone(s.lease);
  v.drafts = drafts;
}

void SequenceTable::view_waiting(const Sequence& s, SequenceView& v) const {
  v.preempted = s.preempted;
  const PageTree::Match match = tree_.find(findable(s));
  v.cached = match.pages * options_.page_tokens;
  v.pages = match.pages;
  v.idle = match.idle;
}

StepView SequenceTable::view(const std::function<std::int64_t(SequenceId)>& drafts,
                             std::int64_t prefill_rows) const {
  StepView view{.sequences = {},
                .available = tree_.available(),
                .page_tokens = options_.page_tokens,
                .step_rows = options_.step_rows,
                .prefill_rows = prefill_rows,
                .sequences_max = options_.sequences};
  // Nobody is looked up who cannot be admitted anyway.
  const bool full = count(Sequence::State::kRunning) >= options_.sequences;
  for (const auto& [id, s] : sequences_) {
    if (s.state == Sequence::State::kDone || (full && !s.running())) continue;
    SequenceView& v = view.sequences.emplace_back();
    v.id = id;
    v.tokens = ssize(s.tokens);
    v.client = s.request.client;
    v.client_served = clients_.at(s.request.client).served;
    s.running() ? view_running(s, drafts(id), v) : view_waiting(s, v);
  }
  return view;
}

void SequenceTable::preempt(SequenceId id) {
  Sequence& s = at(id);
  tree_.release(s.lease);
  s.state = Sequence::State::kWaiting;
  s.preempted = true;
  s.cached = 0;
  read_texts(s);  // of the answer, too
  ++counts_.preemptions;
}

void SequenceTable::admit(SequenceId id) {
  Sequence& s = at(id);
  tree_.take(findable(s), s.lease);
  s.cached = ssize(s.lease.pages) * options_.page_tokens;
  const bool grown =
      tree_.grow(s.lease, pages_of(ssize(s.tokens), options_.page_tokens) - ssize(s.lease.pages));
  M3_CHECK(grown, "sequence {} of {} tokens is admitted without room", id, s.tokens.size());
  s.state = Sequence::State::kRunning;
  s.preempted = false;
  if (s.admitted) return;
  s.admitted = true;
  s.reused = s.cached;
  counts_.prompt_tokens += s.answer_begin;
  counts_.reused_tokens += s.reused;
}

std::vector<StepRows> SequenceTable::begin_step(
    const std::function<std::int64_t(SequenceId)>& drafts, std::int64_t prefill_rows) {
  const StepPlan plan = plan_step(view(drafts, prefill_rows));
  for (const SequenceId id : plan.preempt) preempt(id);
  for (const SequenceId id : plan.admit) admit(id);
  std::vector<StepRows> all;
  for (const StepPlan::Rows& rows : plan.rows) {
    Sequence& s = at(rows.id);
    const std::int64_t pages = pages_of(s.cached + rows.rows, options_.page_tokens);
    const bool grown = tree_.grow(s.lease, std::max<std::int64_t>(0, pages - ssize(s.lease.pages)));
    M3_CHECK(grown, "sequence {} has rows without room", rows.id);
    clients_.at(s.request.client).served += static_cast<double>(rows.rows);
    all.push_back({rows.id, s.cached, rows.rows, rows.drafts});
  }
  return all;
}

void SequenceTable::stored(SequenceId id, std::int64_t cached) {
  Sequence& s = at(id);
  s.cached = cached;
  while ((s.lease.shared + 1) * options_.page_tokens <= cached) {
    const auto page = static_cast<std::size_t>(s.lease.shared);
    tree_.store(s.lease, page < s.texts.size() ? s.texts[page]
                                               : text_of_page(s, static_cast<std::int64_t>(page)));
  }
}

}  // namespace m3
