#include "apps/bench_run.h"

#include <algorithm>
#include <chrono>

#include "apps/expert_counter.h"
#include "apps/model_options.h"
#include "apps/progress_bar.h"
#include "base/machine.h"
#include "base/random.h"
#include "engine/engine.h"

namespace m3 {
namespace {

constexpr std::uint64_t kSeed = 20;

std::int64_t pages_each(const BenchCase& c, const Config& config) {
  return pages_of(c.depth + c.tokens, config.block_tokens);
}

// Rows of the largest step: what the engine would take.
std::int64_t step_rows(const BenchCase& c) {
  return c.prefill ? std::min(c.tokens, EngineOptions().step_rows) : c.batch;
}

// Uniform numbers of unit variance, as normalised keys have.
void fill(const PagePart& part, std::uint64_t stream) {
  for (std::int64_t i = 0; i < part.elements(); ++i) {
    const double u = uniform_at(kSeed, stream, static_cast<std::uint64_t>(i));
    part.set_at(i, static_cast<float>((2 * u - 1) * 1.7320508));
  }
}

}  // namespace

Status BenchRun::check(const Model& model, const BenchCase& c) {
  const Config& config = model.config();
  if (c.depth > config.positions_max || c.tokens > config.positions_max - c.depth)
    return fail("depth {} and {} more tokens need {} positions, but the model has {}", c.depth,
                c.tokens, c.depth + c.tokens, config.positions_max);
  // In doubles: a batch may be any number.
  const double bytes =
      static_cast<double>(c.batch) *
      static_cast<double>(pages_each(c, config) *
                          page_bytes(config, model.cache_format(), model.mtp_modules()).total());
  if (bytes > static_cast<double>(available_memory()))
    return fail("caches of {} sequences at depth {} take {}, but the system has {} left", c.batch,
                c.depth, quantity(bytes, "B"),
                quantity(static_cast<double>(available_memory()), "B"));
  return {};
}

Result<std::unique_ptr<BenchRun>> BenchRun::create(const Model& model, const BenchCase& c) {
  M3_TRY_STATUS(check(model, c));
  const std::int64_t pages = c.batch * pages_each(c, model.config());
  M3_TRY(PagedCache cache,
         PagedCache::create(model.config(), model.cache_format(), pages, model.mtp_modules()));
  auto run = std::unique_ptr<BenchRun>(new BenchRun(model, c, std::move(cache)));
  run->fill_caches();
  return run;
}

BenchRun::BenchRun(const Model& model, const BenchCase& c, PagedCache cache)
    : model_(model),
      case_(c),
      cache_(std::move(cache)),
      pages_each_(pages_each(c, model.config())),
      arena_(model.config(), step_rows(c), c.batch) {}

void BenchRun::fill_caches() {
  if (case_.depth == 0) return;
  const Config& config = model_.config();
  std::uint64_t stream = 0;
  for (std::int64_t page = 0; page < cache_.pages(); ++page) {
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      const KvView kv = cache_.kv(layer);
      for (std::int64_t head = 0; head < config.kv_heads; ++head) {
        fill(kv.keys(page, head), ++stream);
        fill(kv.values(page, head), ++stream);
      }
      if (config.sparse_layers[static_cast<std::size_t>(layer)])
        fill(cache_.index(layer).keys(page), ++stream);
    }
  }
}

// `rows` rows of every sequence from `slot` on; the last row of each wants logits at the end.
Batch BenchRun::step_at(std::int64_t slot, std::int64_t rows) const {
  const auto vocab = static_cast<double>(model_.config().vocab);
  Batch batch;
  for (std::int64_t s = 0; s < case_.batch; ++s) {
    std::vector<std::int32_t> ids, pages;
    for (std::int64_t i = 0; i < rows; ++i)
      ids.push_back(
          static_cast<std::int32_t>(vocab * uniform_at(kSeed, static_cast<std::uint64_t>(s),
                                                       static_cast<std::uint64_t>(slot + i))));
    for (std::int64_t p = 0; p < pages_each_; ++p)
      pages.push_back(static_cast<std::int32_t>(s * pages_each_ + p));
    batch.add_sequence(ids, slot, pages, /*all_outputs=*/false);
    if (!case_.prefill || slot + rows == case_.depth + case_.tokens) batch.want_last();
  }
  return batch;
}

BenchSample BenchRun::sample() {
  using Clock = std::chrono::steady_clock;
  BenchSample sample;
  ExpertCounter counter(model_);
  const std::int64_t rows = case_.prefill ? step_rows(case_) : 1;
  for (std::int64_t done = 0; done < case_.tokens;) {
    const std::int64_t step = std::min(rows, case_.tokens - done);
    const Batch batch = step_at(case_.depth + done, step);
    const auto begin = Clock::now();
    model_.forward(batch, cache_, arena_, counter);
    sample.seconds += std::chrono::duration<double>(Clock::now() - begin).count();
    sample.work += count_work(model_.config(), model_.weights(), batch, counter.distinct(),
                              model_.cache_format());
    done += step;
  }
  return sample;
}

}  // namespace m3
