// One step of the engine: its rows, and the tokens that come of them.
#include <algorithm>
#include <iterator>

#include "engine/engine.h"

namespace m3 {

using std::ssize;

std::span<const TokenEvent> Engine::step() {
  events_.clear();
  admit();
  Batch batch;
  const std::vector<Member> members = compose(batch);
  if (members.empty()) return events_;
  batch.keep_final = speculation_.needs_final_hidden();
  speculation_.begin_step();
  Watch nobody;
  Watch* watch = speculation_.watch();
  const Tensor logits = model_.forward(batch, cache_, arena_, watch ? *watch : nobody);
  for (const Member& member : members) advance(member, logits);
  if (speculation_.on()) speculate(batch, members);
  return events_;
}

// Every sequence that runs gets at least a row; drafts take what is left.
std::int64_t Engine::rows_for_drafts() const {
  return std::max<std::int64_t>(0, options_.step_rows - running());
}

// Rows of this step: of every sequence that decodes the last token and its drafts first, then as
// much of the prompts as fits.
std::vector<Engine::Member> Engine::compose(Batch& batch) const {
  std::vector<Member> members;
  std::int64_t draft_rows = rows_for_drafts();
  for (const bool decoding : {true, false}) {
    for (const auto& [id, s] : sequences_) {
      const std::int64_t missing = ssize(s.tokens) - s.cached;
      if (!s.running || (missing == 1) != decoding) continue;
      const std::int64_t room = options_.step_rows - batch.rows();
      if (room == 0) return members;
      auto drafts = decoding ? speculation_.drafts(id) : std::span<const std::int32_t>();
      drafts = drafts.first(static_cast<std::size_t>(std::min(ssize(drafts), draft_rows)));
      draft_rows -= ssize(drafts);
      Member& member = members.emplace_back(
          Member{.id = id, .slot = s.cached, .rows = std::min(missing, room) + ssize(drafts)});
      add_rows(s, drafts, member, batch);
    }
  }
  return members;
}

// The rows of `member`, of which the last are `drafts`. The logits of the last token that is known
// and of all drafts are wanted.
void Engine::add_rows(const Sequence& s, std::span<const std::int32_t> drafts, Member& member,
                      Batch& batch) const {
  const auto known = s.tokens.begin() + s.cached;
  std::vector<std::int32_t> tokens(known, known + (member.rows - ssize(drafts)));
  const bool complete = s.cached + ssize(tokens) == ssize(s.tokens);
  tokens.insert(tokens.end(), drafts.begin(), drafts.end());
  const std::int64_t pages = pages_of(s.cached + member.rows, cache_.page_tokens());
  member.first_row = batch.rows();
  s.request.media.add_to(batch, s.cached, member.rows, member.first_row);
  batch.add_sequence(tokens, s.cached, std::span(s.pages).first(static_cast<std::size_t>(pages)),
                     /*all_outputs=*/false);
  member.first_output = ssize(batch.outputs);
  member.outputs = complete ? 1 + ssize(drafts) : 0;
  for (std::int64_t row = batch.rows() - member.outputs; row < batch.rows(); ++row)
    batch.outputs.push_back(static_cast<std::int32_t>(row));
}

// Draws one token after another, as long as the row behind the draw has run: as long as the draw is
// what was drafted. Rows of other drafts are as if they had never been: the cache counts as long as
// the sequence, and what is stored beyond is overwritten.
void Engine::advance(const Member& member, const Tensor& logits) {
  Sequence& s = sequences_.at(member.id);
  if (member.outputs == 0) {
    s.cached += member.rows;
    return;
  }
  const auto drafts =
      speculation_.drafts(member.id).first(static_cast<std::size_t>(member.outputs - 1));
  std::int64_t judged = 0, accepted = 0;
  bool same = true;
  for (std::int64_t i = 0; same && s.running; ++i) {
    const std::int32_t id = draw(member.id, logits.row<float>(member.first_output + i));
    same = i < ssize(drafts) && id == drafts[static_cast<std::size_t>(i)];
    judged += i < ssize(drafts);
    accepted += same;
  }
  speculation_.judged(member.id, judged, accepted);
}

// Draws the next token of a sequence, all of whose tokens so far have a row, and decides whether it
// was the last. Returns its id; -1 if there is none.
std::int32_t Engine::draw(SequenceId id, const float* logits) {
  Sequence& s = sequences_.at(id);
  const auto vocab = static_cast<std::size_t>(model_.config().vocab);
  SampledToken token =
      sampler_.sample({logits, vocab}, s.request.sampling, s.history, ssize(s.tokens));
  const std::int32_t drawn = token.id;
  s.cached = ssize(s.tokens);
  if (drawn < 0) {
    s.running = false;
    events_.push_back({id, std::move(token), Finish::kBroken});
    return drawn;
  }
  s.tokens.push_back(drawn);
  ++s.history.answer[drawn];
  Finish finish = Finish::kNo;
  if (std::ranges::count(s.request.stop_ids, drawn) > 0) {
    finish = Finish::kStop;
  } else if (ssize(s.tokens) - s.answer_begin >= s.request.max_tokens) {
    finish = Finish::kLength;
  }
  if (finish != Finish::kNo) s.running = false;
  events_.push_back({id, std::move(token), finish});
  return drawn;
}

// Lets the drafter see the step, and draft for the next one.
void Engine::speculate(const Batch& batch, const std::vector<Member>& members) {
  VerifiedStep step{.batch = batch, .cache = cache_, .arena = arena_, .jobs = {}};
  bool plain = true;
  for (const Member& member : members) {
    plain = plain && member.rows == member.outputs;
    // Without a next token there is nothing to draft from.
    const Sequence& s = sequences_.at(member.id);
    if (s.cached < ssize(s.tokens)) step.jobs.push_back(draft_job(member));
  }
  speculation_.finish_step(std::move(step), plain, rows_for_drafts());
}

DraftJob Engine::draft_job(const Member& member) const {
  const Sequence& s = sequences_.at(member.id);
  // An answer's last token is never drafted: the draw behind the drafts gives one more.
  const std::int64_t left = s.request.max_tokens - (ssize(s.tokens) - s.answer_begin);
  const bool decoding = s.running && member.outputs > 0;
  return {.sequence = member.id,
          .decoding = decoding,
          .count = decoding ? left - 1 : 0,
          .slot = member.slot,
          .first_row = member.first_row,
          .rows = s.cached - member.slot,
          .tokens = s.tokens,
          .media = s.request.media,
          .pages = s.pages,
          .sampling = s.request.sampling,
          .history = s.history};
}

}  // namespace m3
