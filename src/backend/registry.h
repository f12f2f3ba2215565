// Picks the platform at run time.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "ops/backend.h"

namespace m3 {

// One platform that the program knows of.
struct BackendInfo {
  std::string name;               // "reference", "cpu", "cuda", "hip"
  std::string absent;             // empty: usable here; otherwise one sentence that says why not
  std::vector<std::string> isas;  // instruction sets usable here, best first
  // Slow twins of instruction sets that tests run too; by name only.
  std::vector<std::string> twins;
};

std::vector<BackendInfo> known_backends();

// `name`: one of known_backends(). `isa`: one of its instruction sets or twins, or "" for the best.
// `pool` outlives the backend. Errors: unknown or absent, with what there is.
Result<std::unique_ptr<Backend>> make_backend(std::string_view name, std::string_view isa,
                                              ThreadPool& pool);

}  // namespace m3
