#include "apps/logits_run.h"

#include <algorithm>

#include "apps/model_options.h"
#include "apps/progress_bar.h"
#include "base/machine.h"
#include "engine/page_tree.h"

namespace m3 {
namespace {

// Rows of one step when the caller does not say: enough to keep a machine busy, few enough that the
// buffers stay small.
constexpr std::int64_t kStepRows = 512;

struct Job {
  std::span<const std::int32_t> ids;
  const SplicePlan* media = nullptr;
  std::vector<std::int32_t> pages = {};
  std::int64_t done = 0;  // rows computed

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }
};

Status check_ids(std::span<const std::int32_t> ids, bool mtp, const Config& config) {
  if (ids.empty()) return fail("the sequence is empty: give at least one token");
  if (mtp && ids.size() == 1)
    return fail("the sequence is one token: MTP joins each token with the next, so give two");
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
  const CacheFormat format = model.cache_format();
  const std::int64_t bytes = pages * page_bytes(config, format, model.mtp_modules()).total();
  if (bytes > available_memory())
    return fail("the cache for these tokens takes {}, but the system has {} left",
                quantity(static_cast<double>(bytes), "B"),
                quantity(static_cast<double>(available_memory()), "B"));
  std::int32_t next = 0;
  for (Job& job : jobs) {
    job.pages.resize(static_cast<std::size_t>(pages_of(job.length(), config.block_tokens)));
    for (std::int32_t& page : job.pages) page = next++;
  }
  return PagedCache::create(config, format, pages, model.mtp_modules());
}

// Rows [slot, slot + rows) of a job, as a step takes them.
struct Part {
  std::size_t job = 0;
  std::int64_t slot = 0;
  std::int64_t rows = 0;
};

// Up to `chunk` rows of every unfinished job, up to `rows_max` together.
std::vector<Part> next_parts(std::vector<Job>& jobs, std::int64_t chunk, std::int64_t rows_max) {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    Job& job = jobs[i];
    const std::int64_t rows = std::min({job.length() - job.done, chunk, rows_max});
    if (rows <= 0) continue;
    parts.push_back({.job = i, .slot = job.done, .rows = rows});
    job.done += rows;
    rows_max -= rows;
  }
  return parts;
}

// The parts as one batch, of the tokens `ahead` of the rows.
Batch compose(const std::vector<Part>& parts, const std::vector<Job>& jobs, std::int64_t ahead,
              std::int64_t page_tokens, Recorder& recorder) {
  Batch batch;
  recorder.begin_step();
  for (const Part& part : parts) {
    const Job& job = jobs[part.job];
    recorder.add_rows(
        {.job = part.job, .first_row = batch.rows(), .slot = part.slot, .rows = part.rows});
    const auto first = static_cast<std::size_t>(part.slot + ahead);
    const auto pages = static_cast<std::size_t>(pages_of(part.slot + part.rows, page_tokens));
    if (job.media != nullptr) job.media->add_to(batch, part.slot + ahead, part.rows, batch.rows());
    batch.add_sequence(job.ids.subspan(first, static_cast<std::size_t>(part.rows)), part.slot,
                       std::span(job.pages).first(pages), /*all_outputs=*/true);
  }
  return batch;
}

// Every MTP module over the rows of the last forward that have the token that it reads. Of a chain
// each continues the one before, and reads a token further on.
void run_mtp(const Model& model, std::vector<Part> parts, const std::vector<Job>& jobs,
             const PagedCache& cache, ActivationArena& arena, Recorder& recorder) {
  const bool chained = model.config().mtp_chain == MtpChain::kPostNorm;
  MtpInput input{.hidden = arena.activations().final_hidden, .sources = {}};
  for (; input.module < model.mtp_modules(); ++input.module) {
    const std::int64_t ahead = chained ? 1 + input.module : 1;
    std::vector<Part> shorter;
    input.sources.clear();
    std::int32_t row = 0;
    for (Part part : parts) {
      const std::int32_t end = row + static_cast<std::int32_t>(part.rows);
      part.rows = std::min(part.rows, jobs[part.job].length() - ahead - part.slot);
      for (std::int64_t i = 0; i < part.rows; ++i) input.sources.push_back(row++);
      row = end;
      if (part.rows > 0) shorter.push_back(part);
    }
    if (shorter.empty()) return;
    Batch batch = compose(shorter, jobs, ahead, cache.page_tokens(), recorder);
    if (chained) {
      batch.splices.clear();
      batch.keep_final = true;
      parts = shorter;
    }
    recorder.keep_mtp(input.module, model.forward_mtp(input, std::move(batch), cache, arena));
  }
}

}  // namespace

Result<std::unique_ptr<Recorder>> run_logits(const Model& model, const LogitsRun& run,
                                             const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<std::int64_t> lengths;
  std::int64_t total = 0, done = 0;
  for (const auto& ids : run.sequences) {
    M3_TRY_STATUS(check_ids(ids, run.mtp, model.config()));
    const SplicePlan* media = run.media.empty() ? nullptr : &run.media[jobs.size()];
    jobs.push_back({.ids = ids, .media = media});
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
    const auto parts = next_parts(jobs, chunk, rows);
    Batch batch = compose(parts, jobs, /*ahead=*/0, cache.page_tokens(), *recorder);
    batch.keep_final = run.mtp;
    recorder->keep_logits(model.forward(batch, cache, arena, *recorder));
    if (run.mtp) run_mtp(model, parts, jobs, cache, arena, *recorder);
    done += batch.rows();
    if (progress) progress(done, total);
  }
  return recorder;
}

}  // namespace m3
