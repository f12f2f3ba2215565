// One measurement of `m3 bench`: a prefill or some decode steps over prepared caches.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "model/work.h"

namespace m3 {

struct BenchCase {
  bool prefill = false;  // "pp": `tokens` of one prompt; else "tg": `tokens` steps of all sequences
  bool vision = false;   // "vision": a picture that becomes `tokens` embeddings
  std::int64_t tokens = 0;
  std::int64_t depth = 0;  // tokens that each cache holds before
  std::int64_t batch = 1;  // sequences
};

struct BenchSample {
  double seconds = 0;
  Work work;
};

// Caches filled with seeded random values instead of computed ones, and the buffers of the steps.
// Repeating a case repeats exactly the same work.
class BenchRun {
 public:
  // Errors: more positions than the model has, or no memory for the caches.
  static Status check(const Model& model, const BenchCase& bench_case);
  // Errors: those of check().
  static Result<std::unique_ptr<BenchRun>> create(const Model& model, const BenchCase& bench_case);

  // Runs the case once.
  BenchSample sample();

 private:
  BenchRun(const Model& model, const BenchCase& bench_case, PagedCache cache);
  Batch step_at(std::int64_t slot, std::int64_t rows) const;
  void fill_caches();

  const Model& model_;
  BenchCase case_;
  PagedCache cache_;
  std::int64_t pages_each_;
  ActivationArena arena_;
};

}  // namespace m3
