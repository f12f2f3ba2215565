// The definition: plain loops, double accumulation, no rounding beyond float32 storage.
#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "ops/backend.h"

namespace m3 {

// `pool` outlives the backend.
std::unique_ptr<Backend> make_reference_backend(ThreadPool& pool);

}  // namespace m3
