// Pictures and clips that a record names beside its messages.
#pragma once

#include "base/result.h"
#include "text/json.h"

namespace m3 {

// When "<image>" in the text of a record that names no picture is a place without an address:
// always, or only where the record has a key for addresses (null or empty).
enum class MediaTags { kArePlaces, kArePlacesWithKey };

// Gives the addresses of `image` and `images` of a record, in order, to the "<image>" in the texts
// of `messages` (which become parts) and to their image parts without an address; and the same of
// clips. Errors: a key that is neither text, object nor list; more or fewer addresses than places;
// a place in a user's text without any. In other turns of a record without addresses tags are text.
Status place_record_media(const Json& record, MediaTags tags, Json& messages);

// Errors: the record, a text, names pictures or clips.
Status expect_no_record_media(const Json& record);

}  // namespace m3
