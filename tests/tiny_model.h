// Small models for tests: written from a seed once per process, loaded on any backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/model.h"
#include "ops/backend.h"
#include "parallel/group.h"

namespace m3 {

// The directory of model NAME of tests/data/models, synthesised in a temporary place.
std::string tiny_model_directory(const std::string& name);

// The same model, whose MTP modules its config calls a chain (MtpChain::kPostNorm).
std::string chained_model_directory(const std::string& name);

// A backend with an instruction set, as in "cpu/avx2" or "reference".
struct Platform {
  std::string backend;
  std::string isa;
  std::string name() const { return isa.empty() ? backend : backend + "/" + isa; }
};

// Every platform that this machine can run, the reference first.
std::vector<Platform> platforms();
// The reference, and the best instruction set here: enough for derivatives, which are the
// reference's on all.
std::vector<Platform> two_platforms();

// A model with everything that it refers to, MTP modules included.
struct TinyModel {
  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  LocalGroup group;
  std::unique_ptr<Model> model;

  TinyModel(const std::string& directory, const Platform& platform, int threads,
            const CacheTypes& cache = {});
};

}  // namespace m3
