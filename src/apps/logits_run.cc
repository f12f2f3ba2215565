#include "apps/logits_run.h"

#include <algorithm>

#include "apps/model_options.h"
#include "apps/progress_bar.h"
#include "base/machine.h"
#include "engine/pages.h"

namespace m3 {
namespace {

// Rows of one step when the caller does not say: enough to keep a machine busy, few enough that the
// buffers stay small.
constexpr std::int64_t kStepRows = 512;

struct Job {
  std::span<const std::int32_t> ids;
  std::vector<std::int32_t> pages = {};
  std::int64_t done = 0;  // rows computed

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }
};

Status check_ids(std::span<const std::int32_t> ids, const Config& config) {
  if (ids.empty()) return fail("the sequence is empty: give at least one token");
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= config.vocab)
      return fail("token {} is {}, outside the vocabulary of {} ids (0 to {})", i, ids[i],
                  config.vocab, config.vocab - 1);
  if (static_cast<std::int64_t>(ids.size()) > config.positions_max)
    return fail("the sequence has {} tokens, but the model has only {} positions", ids.size(),
                config.positions_max);
  return {};
}

// Pages for all jobs. Errors: the cache does not fit the memory.
Result<PagedCache> make_cache(std::vector<Job>& jobs, const Model& model) {
  const Config& config = model.config();
  std::int64_t pages = 0;
  for (const Job& job : jobs) pages += pages_of(job.length(), config.block_tokens);
  const DType dtype = model.backend().cache_dtype();
  const std::int64_t bytes = pages * page_bytes(config, dtype).total();
  if (bytes > available_memory())
    return fail("the cache for these tokens takes {}, but the system has {} left",
                quantity(static_cast<double>(bytes), "B"),
                quantity(static_cast<double>(available_memory()), "B"));
  PageAllocator allocator(pages);
  for (Job& job : jobs) allocator.allocate(pages_of(job.length(), config.block_tokens), job.pages);
  return PagedCache::create(config, dtype, pages);
}

// Takes up to `chunk` rows of every unfinished job into one batch of at most `rows_max`.
Batch compose(std::vector<Job>& jobs, std::int64_t chunk, std::int64_t rows_max,
              std::int64_t page_tokens, Recorder& recorder) {
  Batch batch;
  recorder.begin_step();
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    Job& job = jobs[i];
    const std::int64_t rows = std::min({job.length() - job.done, chunk, rows_max - batch.rows()});
    if (rows <= 0) continue;
    recorder.add_rows({.job = i, .first_row = batch.rows(), .slot = job.done, .rows = rows});
    const auto first = static_cast<std::size_t>(job.done), count = static_cast<std::size_t>(rows);
    const auto pages = static_cast<std::size_t>(pages_of(job.done + rows, page_tokens));
    batch.add_sequence(job.ids.subspan(first, count), job.done, std::span(job.pages).first(pages),
                       /*all_outputs=*/true);
    job.done += rows;
  }
  return batch;
}

}  // namespace

Result<std::unique_ptr<Recorder>> run_logits(const Model& model, const LogitsRun& run,
                                             const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<std::int64_t> lengths;
  std::int64_t total = 0, done = 0;
  for (const auto& ids : run.sequences) {
    M3_TRY_STATUS(check_ids(ids, model.config()));
    jobs.push_back({.ids = ids});
    lengths.push_back(jobs.back().length());
    total += lengths.back();
  }
  M3_TRY(const PagedCache cache, make_cache(jobs, model));
  auto recorder = std::make_unique<Recorder>(model, lengths, run.trace);
  if (!run.choices.empty()) M3_TRY_STATUS(recorder->replay(run.choices));
  const std::int64_t chunk = run.chunk > 0 ? run.chunk : kStepRows;
  const std::int64_t rows = std::min(std::max(kStepRows, chunk), total);
  ActivationArena arena(model.config(), rows, rows);
  while (done < total) {
    const Batch batch = compose(jobs, chunk, rows, cache.page_tokens(), *recorder);
    recorder->keep_logits(model.forward(batch, cache, arena, *recorder));
    done += batch.rows();
    if (progress) progress(done, total);
  }
  return recorder;
}

}  // namespace m3
