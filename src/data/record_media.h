// Pictures and clips that a record names beside its messages.
#pragma once

#include "base/result.h"
#include "text/json.h"

namespace m3 {

// Gives the addresses of `image` and `images` of a record, in order, to the "<image>" in the texts
// of `messages` (which become parts) and to their image parts without an address; and the same of
// clips. A record without such keys leaves the texts as they are. Errors: a key that is neither
// text, object nor list; more or fewer addresses than places.
Status place_record_media(const Json& record, Json& messages);

}  // namespace m3
