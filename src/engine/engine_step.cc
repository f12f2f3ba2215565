// One step of the engine: its rows, and the tokens that come of them.
#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/engine.h"

namespace m3 {

using std::ssize;

std::span<const TokenEvent> Engine::step() {
  events_.clear();
  end_late();
  const double begin = options_.seconds();
  const auto drafts = [&](SequenceId id) { return ssize(speculation_.drafts(id)); };
  const std::vector<StepRows> rows =
      table_.begin_step(drafts, table_.anybody_decodes() ? pace_.rows() : options_.step_rows);
  if (rows.empty()) return events_;
  Batch batch;
  std::vector<Member> members;
  for (const StepRows& one : rows) members.push_back(add_rows(one, batch));
  batch.keep_final =
      speculation_.needs_final_hidden() ||
      std::ranges::any_of(members, [&](const Member& member) { return wants_scores(member); });
  speculation_.begin_step();
  Watch nobody;
  Watch* watch = speculation_.watch();
  const Tensor logits = model_.forward(batch, cache_, arena_, watch ? *watch : nobody);
  for (const Member& member : members) advance(member, logits);
  for (const Member& member : members)
    if (wants_scores(member)) score_prompt(batch, member);
  if (speculation_.on()) speculate(batch, members);
  for (const TokenEvent& event : events_)
    if (event.finish != Finish::kNo) table_.end(event.sequence);
  std::int64_t prefill_rows = 0;
  for (const Member& member : members)
    if (member.rows > member.outputs) prefill_rows += member.rows;
  pace_.saw_step(prefill_rows, options_.seconds() - begin);
  return events_;
}

void Engine::end_late() {
  const double now = options_.seconds();
  for (const auto& [id, s] : table_.sequences())
    if (s.state != Sequence::State::kDone && s.request.deadline < now) {
      finish(id, {}, Finish::kDeadline);
      table_.end(id);
    }
}

// Every sequence that runs gets at least a row; drafts take what is left.
std::int64_t Engine::rows_for_drafts() const {
  return std::max<std::int64_t>(0, options_.step_rows - table_.count(Sequence::State::kRunning));
}

// The rows of a sequence, of which the last are drafts. The logits of the last token that is known
// and of all drafts are wanted.
Engine::Member Engine::add_rows(const StepRows& rows, Batch& batch) const {
  const Sequence& s = table_.at(rows.id);
  const auto drafts = speculation_.drafts(rows.id).first(static_cast<std::size_t>(rows.drafts));
  const auto known = s.tokens.begin() + s.cached;
  std::vector<std::int32_t> tokens(known, known + (rows.rows - rows.drafts));
  const bool complete = s.cached + ssize(tokens) == ssize(s.tokens);
  tokens.insert(tokens.end(), drafts.begin(), drafts.end());
  const std::int64_t pages = pages_of(s.cached + rows.rows, cache_.page_tokens());
  Member member{rows, batch.rows(), 0, complete ? 1 + rows.drafts : 0};
  s.request.media.add_to(batch, s.cached, rows.rows, member.first_row);
  batch.add_sequence(tokens, s.cached,
                     std::span(s.lease.pages).first(static_cast<std::size_t>(pages)),
                     /*all_outputs=*/false, s.request.adapter);
  member.first_output = ssize(batch.outputs);
  for (std::int64_t row = batch.rows() - member.outputs; row < batch.rows(); ++row)
    batch.outputs.push_back(static_cast<std::int32_t>(row));
  return member;
}

// Draws one token after another, as long as the row behind the draw has run: as long as the draw is
// what was drafted. Rows of other drafts are as if they had never been: the cache counts as long as
// the sequence, and what is stored beyond is overwritten.
void Engine::advance(const Member& member, const Tensor& logits) {
  const Sequence& s = table_.at(member.id);
  if (member.outputs == 0) return table_.stored(member.id, member.slot + member.rows);
  const auto drafts =
      speculation_.drafts(member.id).first(static_cast<std::size_t>(member.outputs - 1));
  std::int64_t judged = 0, accepted = 0;
  bool same = true;
  for (std::int64_t i = 0; same && s.running(); ++i) {
    const std::int32_t id = draw(member.id, logits.row<float>(member.first_output + i));
    same = i < ssize(drafts) && id == drafts[static_cast<std::size_t>(i)];
    judged += i < ssize(drafts);
    accepted += same;
  }
  speculation_.judged(member.id, judged, accepted);
}

bool Engine::wants_scores(const Member& member) const {
  const Sequence& s = table_.at(member.id);
  const auto scored = ssize(s.scores);
  return s.unscored() > 0 && member.slot <= scored && scored < member.slot + member.rows;
}

// Of the rows that the step had of it: each says how probable the prompt's next token was. The
// step's own logits are overwritten.
void Engine::score_prompt(const Batch& batch, const Member& member) {
  Sequence& s = table_.at(member.id);
  const std::int64_t end = std::min(member.slot + member.rows, s.answer_begin - 1);
  while (ssize(s.scores) < end) {
    const std::int64_t slot = ssize(s.scores), rows = std::min(end - slot, arena_.outputs());
    const Tensor logits =
        model_.logits_of(batch, member.first_row + slot - member.slot, rows, arena_);
    for (std::int64_t row = 0; row < rows; ++row)
      s.scores.push_back(score_token(
          {logits.row<float>(row), static_cast<std::size_t>(logits.dim(1))},
          s.tokens[static_cast<std::size_t>(slot + row + 1)], s.request.prompt_logprobs));
  }
}

// Draws the next token of a sequence, all of whose tokens so far have a row, and decides whether it
// was the last. Returns its id; -1 if there is none.
std::int32_t Engine::draw(SequenceId id, const float* logits) {
  Sequence& s = table_.at(id);
  table_.stored(id, ssize(s.tokens));
  SampledToken token = sample(s, logits);
  const std::int32_t drawn = token.id;
  if (drawn < 0) {
    finish(id, std::move(token), Finish::kBroken);
    return drawn;
  }
  s.tokens.push_back(drawn);
  ++s.history.answer[drawn];
  if (s.constraint) s.constraint->accept(drawn);
  Finish how = Finish::kNo;
  if (std::ranges::count(s.request.stop_ids, drawn) > 0) {
    how = Finish::kStop;
  } else if (s.answered() >= s.request.max_tokens) {
    how = Finish::kLength;
  }
  finish(id, std::move(token), how);
  return drawn;
}

SampledToken Engine::sample(Sequence& s, const float* logits) {
  const auto vocab = static_cast<std::size_t>(model_.config().vocab);
  std::span<const std::uint64_t> allowed;
  if (limit(s)) allowed = allowed_;
  return sampler_.sample({logits, vocab}, s.request.sampling, s.history, ssize(s.tokens), allowed);
}

// What of the vocabulary may come next: in `allowed_`, or all of it (false).
bool Engine::limit(Sequence& s) {
  bool limited = s.constraint && s.constraint->allowed(allowed_);
  const bool may_stop = limited || s.answered() >= s.request.min_tokens;  // a grammar knows best
  const auto forbid = [&](std::int32_t id) {
    if (!std::exchange(limited, true)) std::ranges::fill(allowed_, ~std::uint64_t{0});
    if (id < model_.config().vocab)
      allowed_[static_cast<std::size_t>(id) / 64] &= ~(std::uint64_t{1} << (id % 64));
  };
  if (!may_stop)
    for (const std::int32_t id : s.request.stop_ids) forbid(id);
  const std::span answer = std::span(s.tokens).subspan(static_cast<std::size_t>(s.answer_begin));
  for (const auto& word : s.request.bad_words) {
    const std::span begin = std::span(word).first(word.size() - 1);
    if (answer.size() >= begin.size() && std::ranges::equal(answer.last(begin.size()), begin))
      forbid(word.back());
  }
  return limited;
}

// Reports a token. After the last, the drafter still sees what the sequence holds.
void Engine::finish(SequenceId id, SampledToken token, Finish how) {
  if (how != Finish::kNo) table_.finish(id);
  events_.push_back({id, std::move(token), how});
}

// Lets the drafter see the step, and draft for the next one.
void Engine::speculate(const Batch& batch, const std::vector<Member>& members) {
  VerifiedStep step{.batch = batch, .cache = cache_, .arena = arena_, .jobs = {}};
  bool plain = true;
  for (const Member& member : members) {
    plain = plain && member.rows == member.outputs;
    // Without a next token there is nothing to draft from.
    const Sequence& s = table_.at(member.id);
    if (s.cached < ssize(s.tokens)) step.jobs.push_back(draft_job(member));
  }
  speculation_.finish_step(std::move(step), plain, rows_for_drafts());
}

DraftJob Engine::draft_job(const Member& member) const {
  const Sequence& s = table_.at(member.id);
  // An answer's last token is never drafted: the draw behind the drafts gives one more.
  const std::int64_t left = s.request.max_tokens - s.answered();
  const bool decoding = s.running() && member.outputs > 0;
  return {.sequence = member.id,
          .decoding = decoding,
          .count = decoding ? left - 1 : 0,
          .slot = member.slot,
          .first_row = member.first_row,
          .rows = s.cached - member.slot,
          .tokens = s.tokens,
          .media = s.request.media,
          .pages = s.lease.pages,
          .sampling = s.request.sampling,
          .history = s.history,
          .adapter = s.request.adapter};
}

}  // namespace m3
