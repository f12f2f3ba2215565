// The server's description of itself.
#pragma once

#include <string>

#include "text/json.h"

namespace m3 {

// OpenAPI 3.1: every endpoint, what it takes and answers.
Json openapi_description(const std::string& version);

}  // namespace m3
