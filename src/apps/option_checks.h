// What several commands ask of the numbers on their command lines.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

#include "base/result.h"
#include "model/cache.h"

namespace m3 {

// Accepts a number from `low` to `high`, or only above `low`.
CLI::Validator between(double low, double high, bool above_low = false);

// Accepts what fits 64 bits; without it a minus sign would wrap around.
CLI::Validator whole_number();

// --fps: frames to keep of a second of a clip.
CLI::Option* add_fps_option(CLI::App& command, double& fps);

// --max-long-side: the long side of pictures and frames, in pixels (spec: vision §3.7).
CLI::Option* add_long_side_option(CLI::App& command, std::int64_t& pixels);

// --recompute, of commands that differentiate.
void add_recompute_option(CLI::App& command, bool& recompute);

// --kv-dtype and --index-dtype.
void add_cache_options(CLI::App& command, CacheTypes& types);

}  // namespace m3
