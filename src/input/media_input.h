// Pictures and clips that a client gives: from their address to what prompt and model need.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/media_encoder.h"
#include "media/pixel_rows.h"
#include "text/chat.h"
#include "text/media_prompt.h"
#include "text/tokenizer.h"

namespace m3 {

struct MediaInput {
  PixelRows pixels;
  MediaShape shape;
  std::vector<std::int64_t> kept = {};  // of a clip: indices of its frames
  std::vector<std::string> notes = {};  // of a clip: what of it is not seen, a sentence each
};

// The rows as the vision tower reads them; `pixels` outlives the tensor.
Tensor pixel_tensor(const PixelRows& pixels);

// How the model in `directory` wants its media. Errors: a model without a vision tower, or broken
// preprocessor files.
Result<PreprocessOptions> preprocess_options(const std::string& directory, const Config& config);

// `address`: see MediaSource. Errors: it cannot be read or decoded.
Result<MediaInput> read_image(const std::string& address, const PreprocessOptions& options);
// `fps`: frames to keep of a second.
Result<MediaInput> read_video(const std::string& address, double fps,
                              const PreprocessOptions& options);

// How many parts of the messages are pictures, and how many clips.
struct MediaCount {
  std::int64_t images = 0, videos = 0;
};
MediaCount count_media(const Json& messages);

// What of an address that a client gave may be opened: another address, or an error. Empty:
// everything.
using AddressRule = std::function<Result<std::string>(const std::string&)>;

// What the image and video parts of messages (as normalise_messages() leaves them) refer to, in
// order. What a part says of itself (media_part.h) comes before `fps` and `options`. `where` names
// the messages in errors, which then tell the part's place; "" for those that the command line
// made. Errors: those of read_media_part().
Result<std::vector<MediaInput>> read_message_media(const Json& messages, std::string_view where,
                                                   double fps, const PreprocessOptions& options,
                                                   const AddressRule& rule = {});

// A prompt's ids, its placeholders expanded to those of the inputs; control strings count only
// where the template wrote them. Errors: the counts differ.
Result<std::vector<TokenId>> encode_prompt(const Prompt& prompt, std::span<const MediaInput> inputs,
                                           const Tokenizer& tokenizer);

// Encodes media for one model, each picture once.
class MediaReader {
 public:
  // `model` outlives the reader. Without a vision tower it reads text alone.
  explicit MediaReader(const Model& model);

  // The inputs behind the vision tower. Errors: the model has no tower, or it was cancelled.
  Result<std::vector<std::shared_ptr<const EncodedMedia>>> encode(
      std::span<const MediaInput> inputs, const EncodeWatch& watch = {});
  // Where media go in ids. Errors: placeholders and embeddings differ in number.
  Result<SplicePlan> plan(std::span<const TokenId> ids,
                          std::vector<std::shared_ptr<const EncodedMedia>> media) const;

 private:
  const Model& model_;
  std::unique_ptr<MediaEncoder> encoder_;
};

}  // namespace m3
