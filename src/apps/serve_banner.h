// What `m3 serve` says when it is ready.
#pragma once

#include "apps/model_options.h"
#include "apps/serve_options.h"
#include "engine/engine.h"
#include "server/server_options.h"

namespace m3 {

// On stderr: the address, the model, what the memory is for, the limits, and a line to try.
// `drafter`: null where nothing is drafted.
void print_serve_banner(const ServeOptions& options, const LoadedModel& loaded,
                        const Engine& engine, const Drafter* drafter, const ServedModel& model,
                        int port);

}  // namespace m3
