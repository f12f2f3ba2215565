#include "apps/perplexity_run.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "apps/progress_bar.h"
#include "base/machine.h"
#include "engine/page_tree.h"

namespace m3 {
namespace {

constexpr std::int64_t kStepRows = 256;

// What a row's logits say of the token that came, and of another model's logits.
struct Score {
  double loss = 0, other_loss = 0;
  double kl = 0;
  bool agrees = false;
};

// log Σ exp(x).
double log_sum_exp(std::span<const float> x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float value : x) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

Score score(std::span<const float> q, std::int32_t token) {
  return {.loss = log_sum_exp(q) - q[static_cast<std::size_t>(token)]};
}

// Σ p (log p - log q); rounding may leave it a hair below zero.
Score score(std::span<const float> q, std::span<const float> p, std::int32_t token) {
  const double q_sum = log_sum_exp(q), p_sum = log_sum_exp(p);
  const auto at = static_cast<std::size_t>(token);
  Score score{.loss = q_sum - q[at], .other_loss = p_sum - p[at]};
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_sum;
    score.kl += std::exp(log_p) * (log_p - (q[i] - q_sum));
  }
  score.kl = std::max(score.kl, 0.0);
  const auto top = [](std::span<const float> x) {
    return std::max_element(x.begin(), x.end()) - x.begin();
  };
  score.agrees = top(q) == top(p);
  return score;
}

std::span<const float> row_of(const Tensor& logits, std::int64_t row) {
  return {logits.row<float>(row), static_cast<std::size_t>(logits.dim(1))};
}

// One model with a cache for one window.
class Reader {
 public:
  static Result<std::unique_ptr<Reader>> create(const Model& model, std::int64_t window,
                                                std::int64_t step_rows) {
    const Config& config = model.config();
    if (window > config.positions_max)
      return fail("a window of {} tokens is asked for, but the model has only {} positions", window,
                  config.positions_max);
    const std::int64_t pages = pages_of(window, config.block_tokens);
    const CacheFormat format = model.cache_format();
    const std::int64_t bytes = pages * page_bytes(config, format).total();
    if (bytes > available_memory())
      return fail(
          "the cache for a window takes {}, but the system has {} left; a smaller --context "
          "may help",
          quantity(static_cast<double>(bytes), "B"),
          quantity(static_cast<double>(available_memory()), "B"));
    M3_TRY(auto cache, PagedCache::create(config, format, pages));
    return std::unique_ptr<Reader>(new Reader(model, std::move(cache), step_rows));
  }

  // Logits of the rows from `first_wanted` on of `ids`, which begin at `slot` of the window.
  Tensor read(std::span<const std::int32_t> ids, std::int64_t slot, std::int64_t first_wanted) {
    Batch batch;
    const auto rows = static_cast<std::int64_t>(ids.size());
    const std::int64_t pages = pages_of(slot + rows, cache_.page_tokens());
    batch.add_sequence(ids, slot, std::span(pages_).first(static_cast<std::size_t>(pages)),
                       /*all_outputs=*/false);
    for (std::int64_t row = first_wanted; row < rows; ++row)
      batch.outputs.push_back(static_cast<std::int32_t>(row));
    return model_.forward(batch, cache_, arena_);
  }

 private:
  Reader(const Model& model, PagedCache cache, std::int64_t step_rows)
      : model_(model),
        cache_(std::move(cache)),
        arena_(model.config(), step_rows, step_rows),
        pages_(static_cast<std::size_t>(cache_.pages())) {
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  const Model& model_;
  PagedCache cache_;
  ActivationArena arena_;
  std::vector<std::int32_t> pages_;
};

Status check(const Model& model, const Model* against, const PerplexityRun& run) {
  M3_CHECK(run.window >= 4, "a window of {} tokens", run.window);
  const std::int64_t vocab = model.config().vocab;
  if (against != nullptr && against->config().vocab != vocab)
    return fail("the models have vocabularies of {} and {} ids: they cannot be compared", vocab,
                against->config().vocab);
  if (std::ssize(run.ids) < run.window)
    return fail("the text has {} tokens, fewer than one window of {}; a smaller --context may help",
                run.ids.size(), run.window);
  for (std::size_t i = 0; i < run.ids.size(); ++i)
    if (run.ids[i] < 0 || run.ids[i] >= vocab)
      return fail("token {} is {}, outside the vocabulary of {} ids", i, run.ids[i], vocab);
  return {};
}

void add(const Score& score, PerplexityResult& result) {
  ++result.tokens;
  result.loss.add(score.loss);
  if (!result.against) return;
  result.against->loss.add(score.other_loss);
  result.against->kl.add(score.kl);
  result.against->kl_max = std::max(result.against->kl_max, score.kl);
  result.against->agreement.add(score.agrees ? 1 : 0);
}

// Scores windows one after the other.
class Scorer {
 public:
  Scorer(Reader& reader, Reader* other, const PerplexityRun& run, std::int64_t step_rows,
         ThreadPool& pool)
      : reader_(reader), other_(other), run_(run), step_rows_(step_rows), pool_(pool) {}

  // The window's last token is not read: nothing is asked of it.
  Status score_window(std::int64_t first_token, PerplexityResult& result) {
    const auto ids = std::span(run_.ids).subspan(static_cast<std::size_t>(first_token),
                                                 static_cast<std::size_t>(run_.window));
    for (std::int64_t slot = 0; slot < run_.window - 1; slot += step_rows_) {
      const std::int64_t rows = std::min(step_rows_, run_.window - 1 - slot);
      M3_TRY_STATUS(score_step(ids, slot, rows, result));
    }
    ++result.windows;
    return {};
  }

 private:
  Status score_step(std::span<const std::int32_t> ids, std::int64_t slot, std::int64_t rows,
                    PerplexityResult& result) {
    const auto step = ids.subspan(static_cast<std::size_t>(slot), static_cast<std::size_t>(rows));
    const std::int64_t wanted = std::clamp<std::int64_t>(run_.window / 2 - slot, 0, rows);
    const Tensor q = reader_.read(step, slot, wanted);
    const Tensor p = other_ == nullptr ? Tensor{} : other_->read(step, slot, wanted);
    scores_.assign(static_cast<std::size_t>(rows - wanted), {});
    pool_.parallel_for(rows - wanted, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int32_t token = ids[static_cast<std::size_t>(slot + wanted + i + 1)];
        scores_[static_cast<std::size_t>(i)] = other_ == nullptr
                                                   ? score(row_of(q, i), token)
                                                   : score(row_of(q, i), row_of(p, i), token);
      }
    });
    for (const Score& score : scores_) {
      if (!std::isfinite(score.loss) || !std::isfinite(score.other_loss) ||
          !std::isfinite(score.kl))
        return fail("logits are not finite in window {}: the weights are damaged", result.windows);
      add(score, result);
    }
    return {};
  }

  Reader& reader_;
  Reader* other_;
  const PerplexityRun& run_;
  std::int64_t step_rows_;
  ThreadPool& pool_;
  std::vector<Score> scores_;
};

}  // namespace

void Estimate::add(double sample) {
  const double before = sample - mean_;
  mean_ += before / static_cast<double>(++count_);
  squares_ += before * (sample - mean_);
}

double Estimate::mean() const {
  return mean_;
}

double Estimate::standard_error() const {
  if (count_ < 2) return 0;
  const auto count = static_cast<double>(count_);
  return std::sqrt(squares_ / (count - 1) / count);
}

Result<PerplexityResult> run_perplexity(const Model& model, const Model* against,
                                        const PerplexityRun& run, ThreadPool& pool,
                                        const Progress& progress) {
  M3_TRY_STATUS(check(model, against, run));
  const std::int64_t step_rows = std::min(run.chunk > 0 ? run.chunk : kStepRows, run.window);
  M3_TRY(const auto reader, Reader::create(model, run.window, step_rows));
  std::unique_ptr<Reader> other;
  if (against != nullptr) {
    M3_TRY(other, Reader::create(*against, run.window, step_rows));
  }
  std::int64_t windows = std::ssize(run.ids) / run.window;
  if (run.windows_max > 0) windows = std::min(windows, run.windows_max);
  PerplexityResult result;
  if (against != nullptr) result.against.emplace();
  Scorer scorer(*reader, other.get(), run, step_rows, pool);
  for (std::int64_t i = 0; i < windows; ++i) {
    M3_TRY_STATUS(scorer.score_window(i * run.window, result));
    if (progress) progress((i + 1) * run.window, windows * run.window);
  }
  return result;
}

}  // namespace m3
