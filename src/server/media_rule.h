// Which pictures and clips a client may name (spec: chat-and-api §8.7).
#pragma once

#include <string>

#include "input/media_input.h"

namespace m3 {

// data: addresses always; file:// (and bare paths) below `directory`, wherever links point; with an
// empty one none. Nothing is fetched from the network.
AddressRule media_rule(std::string directory);

}  // namespace m3
