#include "data/sample.h"

#include <algorithm>

#include "ops/gradients.h"
#include "text/control_strings.h"

namespace m3 {
namespace {

// Adds [begin, end) to what is scored, less the first id of the sample.
void add_scored(Sample& sample, std::int64_t begin, std::int64_t end) {
  begin = std::max<std::int64_t>(begin, 1);
  if (begin >= end) return;
  if (!sample.scored.empty() && sample.scored.back().end == begin)
    sample.scored.back().end = end;
  else
    sample.scored.push_back({begin, end});
}

// Ids of the placeholders of pictures and clips; -1 where the tokenizer has none.
struct Placeholders {
  TokenId image, video;

  explicit Placeholders(const Tokenizer& tokenizer)
      : image(tokenizer.id_of(control::kImage).value_or(-1)),
        video(tokenizer.id_of(control::kVideo).value_or(-1)) {}
  bool has(TokenId id) const { return id >= 0 && (id == image || id == video); }
};

// Walks through the ids of a rendered conversation, knows which byte each begins at, and expands
// placeholders.
class ConversationReader {
 public:
  ConversationReader(const ChatWithAnswers& chat, const std::vector<bool>& learnt,
                     std::span<const MediaShape> media, const Tokenizer& tokenizer)
      : chat_(chat), learnt_(learnt), media_(media), tokenizer_(tokenizer) {
    sample_.answers = std::ssize(chat.answers);
    for (std::size_t i = 0; i < chat.answers.size(); ++i)
      sample_.off_mode += learnt[i] && !chat.answers[i].as_prompted;
  }

  Result<Sample> read() && {
    const Placeholders placeholders(tokenizer_);
    M3_TRY(const auto ids, tokenizer_.encode(chat_.prompt.text(), chat_.prompt.client_ranges()));
    for (const TokenId id : ids) {
      const std::int64_t place = std::ssize(sample_.ids);
      if (placeholders.has(id)) {
        M3_TRY_STATUS(add_media(id));
      } else {
        sample_.ids.push_back(id);
        if (is_learnt()) add_scored(sample_, place, place + 1);
      }
      byte_ += tokenizer_.bytes(id).size();
    }
    if (sample_.media.size() != media_.size())
      return fail("the template shows {} of {} pictures and clips", sample_.media.size(),
                  media_.size());
    return std::move(sample_);
  }

 private:
  // Whether the token that begins at byte_ belongs to an answer that is learnt.
  bool is_learnt() {
    while (answer_ < chat_.answers.size() && chat_.answers[answer_].range.end <= byte_) ++answer_;
    return answer_ < chat_.answers.size() && learnt_[answer_] &&
           chat_.answers[answer_].range.begin <= byte_;
  }

  Status add_media(TokenId id) {
    const std::size_t index = sample_.media.size();
    const std::span<const MediaShape> one = media_.subspan(std::min(index, media_.size()));
    M3_TRY(const auto expanded,
           expand_media(std::span(&id, 1), one.first(std::min<std::size_t>(1, one.size())),
                        tokenizer_));
    const std::int64_t begin = std::ssize(sample_.ids);
    sample_.ids.insert(sample_.ids.end(), expanded.begin(), expanded.end());
    sample_.media.push_back({begin, std::ssize(sample_.ids)});
    return {};
  }

  const ChatWithAnswers& chat_;
  const std::vector<bool>& learnt_;
  std::span<const MediaShape> media_;
  const Tokenizer& tokenizer_;
  Sample sample_;
  std::size_t byte_ = 0;    // of the prompt: where the current token begins
  std::size_t answer_ = 0;  // that ends behind it
};

Result<Sample> read_text(const std::string& text, const Tokenizer& tokenizer) {
  Sample sample{.is_text = true};
  M3_TRY(sample.ids, tokenizer.encode(text, Tokenizer::ControlTokens::kHonoured));
  const Placeholders placeholders(tokenizer);
  for (const TokenId id : sample.ids)
    if (placeholders.has(id))
      return fail("the text holds {}, but only messages have pictures and clips",
                  tokenizer.bytes(id));
  add_scored(sample, 1, std::ssize(sample.ids));
  if (sample.scored.empty())
    return fail("the text has {} token{}: with fewer than 2 nothing is scored", sample.ids.size(),
                sample.ids.size() == 1 ? "" : "s");
  return sample;
}

Sample part_of(const Sample& sample, std::int64_t begin, std::int64_t end) {
  Sample part{.ids = {sample.ids.begin() + begin, sample.ids.begin() + end},
              .answers = sample.answers,
              .off_mode = sample.off_mode,
              .is_text = sample.is_text};
  for (const IdRange& range : sample.scored)
    add_scored(part, range.begin - begin, std::min(range.end, end) - begin);
  for (const IdRange& range : sample.media)
    if (range.begin >= begin && range.end <= end)
      part.media.push_back({range.begin - begin, range.end - begin});
  return part;
}

}  // namespace

std::int64_t scored_tokens(const Sample& sample) {
  std::int64_t tokens = 0;
  for (const IdRange& range : sample.scored) tokens += range.size();
  return tokens;
}

std::vector<std::int32_t> labels_of(const Sample& sample) {
  std::vector<std::int32_t> labels(sample.ids.size(), kNotScored);
  for (const IdRange& range : sample.scored)
    std::copy(sample.ids.begin() + range.begin, sample.ids.begin() + range.end,
              labels.begin() + range.begin - 1);
  return labels;
}

Result<Sample> make_sample(const TrainingRecord& record, std::span<const MediaShape> media,
                           const Tokenizer& tokenizer) {
  if (!record.chat) return read_text(record.text, tokenizer);
  M3_TRY(const ChatWithAnswers chat, render_chat_with_answers(*record.chat));
  M3_TRY(Sample sample, ConversationReader(chat, record.learnt, media, tokenizer).read());
  if (!sample.scored.empty()) return sample;
  if (sample.answers == 0) return fail("no token is scored: there is no assistant message");
  return fail("no token is scored: all assistant messages have \"weight\": 0");
}

Sample cut_off(const Sample& sample, std::int64_t most) {
  std::int64_t end = std::min(most, std::ssize(sample.ids));
  for (const IdRange& range : sample.media)
    if (range.begin < end && range.end > end) end = range.begin;
  return part_of(sample, 0, end);
}

std::vector<Sample> cut_in_pieces(const Sample& sample, std::int64_t most) {
  std::vector<Sample> pieces;
  const std::int64_t count = std::ssize(sample.ids);
  for (std::int64_t begin = 0; begin + 1 < count; begin += most - 1)
    pieces.push_back(part_of(sample, begin, std::min(begin + most, count)));
  return pieces;
}

}  // namespace m3
