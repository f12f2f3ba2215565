// Pictures and clips that a command was given: from their address to what prompt and model need.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "apps/model_options.h"
#include "engine/media_encoder.h"
#include "media/pixel_rows.h"
#include "text/chat.h"
#include "text/media_prompt.h"

namespace m3 {

// What a progress bar says of the vision tower's work.
inline constexpr const char* kLookingAtMedia = "looking at pictures";

struct MediaInput {
  PixelRows pixels;
  MediaShape shape;
  std::vector<std::int64_t> kept = {};  // of a clip: indices of its frames
  std::vector<std::string> notes = {};  // of a clip: what of it is not seen, a sentence each
};

// What of the inputs is not seen, on stderr.
void print_notes(std::span<const MediaInput> inputs);

// How the model in `directory` wants its media. Errors: a model without a vision tower, or broken
// preprocessor files.
Result<PreprocessOptions> preprocess_options(const std::string& directory, const Config& config);

// `address`: see MediaSource. Errors: it cannot be read or decoded.
Result<MediaInput> read_image(const std::string& address, const PreprocessOptions& options);
// `fps`: frames to keep of a second.
Result<MediaInput> read_video(const std::string& address, double fps,
                              const PreprocessOptions& options);

// True if a message has a picture or clip.
bool holds_media(const Json& messages);

// What the image and video parts of messages (as normalise_messages() leaves them) refer to, in
// order. What a part says of itself (media_part.h) comes before `fps` and `options`. `where` names
// the messages in errors, which then tell the part's place; "" for those that the command line
// made. Errors: those of read_media_part().
Result<std::vector<MediaInput>> read_message_media(const Json& messages, std::string_view where,
                                                   double fps, const PreprocessOptions& options);

// Encodes media for one model, each picture once.
class MediaReader {
 public:
  // `loaded` outlives the reader and has a tokenizer. A model without a vision tower reads text
  // alone.
  explicit MediaReader(const LoadedModel& loaded);

  // The prompt's ids, its placeholders expanded to those of the inputs; control strings count only
  // where the template wrote them. Errors: the counts differ.
  Result<std::vector<TokenId>> encode_text(const Prompt& prompt,
                                           std::span<const MediaInput> inputs) const;
  // The inputs behind the vision tower; shows progress. `cancelled` is asked now and then, and may
  // be empty. Errors: the model has no tower, or it was cancelled.
  Result<std::vector<std::shared_ptr<const EncodedMedia>>> encode(
      std::span<const MediaInput> inputs, const std::function<bool()>& cancelled = {});
  // Where media go in ids. Errors: placeholders and embeddings differ in number.
  Result<SplicePlan> plan(std::span<const TokenId> ids,
                          std::vector<std::shared_ptr<const EncodedMedia>> media) const;
  // The id that ends a turn, where the tokenizer has one.
  std::optional<TokenId> turn_end() const;

 private:
  const LoadedModel& loaded_;
  std::unique_ptr<MediaEncoder> encoder_;
};

}  // namespace m3
