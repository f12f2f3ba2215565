// What a record becomes: token ids, and which of them are learnt.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/training_record.h"
#include "model/vision.h"
#include "text/media_prompt.h"
#include "text/tokenizer.h"

namespace m3 {

// The ids of a sample from `begin` on, up to but not including `end`.
struct IdRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const IdRange&) const = default;
};

struct Sample {
  std::vector<TokenId> ids;
  // What is learnt: of a conversation each of its answers, in that order, without the placeholders
  // of pictures; of a text everything but its first token, which nothing predicts.
  std::vector<IdRange> scored;
  std::vector<IdRange> media;  // in the order of the record's; all there is of each
  // Checksums of their pixels; of a cut sample also of those that are left out.
  std::vector<std::uint64_t> pixels = {};
  std::vector<MediaGrid> grids = {};  // their shapes
  std::int64_t answers = 0;           // of assistants
  std::int64_t off_mode = 0;          // of these: learnt, but unlike what thinking_mode prompts for
  bool is_text = false;               // no conversation
};

std::int64_t scored_tokens(const Sample& sample);

// labels[t] is the id behind row t where that is scored, else kNotScored.
std::vector<std::int32_t> labels_of(const Sample& sample);

// `media`: the shapes of what the record's messages refer to, in order. The template's control
// strings are tokens, a client's are text; in a text that stands for itself, whoever wrote it may
// have rendered a conversation, so that they are tokens too. Errors: what the template refuses, a
// text that holds placeholders of pictures, nothing that is scored.
Result<Sample> make_sample(const TrainingRecord& record, std::span<const MediaShape> media,
                           const Tokenizer& tokenizer);

// The first ids of a conversation, at most `most`; pictures that are not whole in them are left out
// with all that follows. Nothing scored may be left.
Sample cut_off(const Sample& sample, std::int64_t most);

// A long text as consecutive samples of at most `most` ids, two or more. Each begins with the last
// id of the one before, so that every token is learnt once, as it would be without cuts.
std::vector<Sample> cut_in_pieces(const Sample& sample, std::int64_t most);

}  // namespace m3
